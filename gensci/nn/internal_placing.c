/* Sampling pass of the internal-coordinate flow, and its density, for tiles of LANES samples of one molecule.
 *
 * Atom by atom: the hidden state from the placed atoms, its torsion, bend and distance, its
 * position, then its keys and values. The equations are those of internal.py and
 * internal_placing.py. Everything but the random numbers that it is given is the same for all
 * samples, so the bits of a sample depend on its own numbers only.
 */

#include "internal_coordinates.h"

static vec dot(const vec *a, const vec *b) /* of three rows */
{
    return a[0] * b[0] + a[NV] * b[NV] + a[2 * NV] * b[2 * NV];
}

/* The frame of atom i, and how far apart its parent and grandparent are. */
static void frame(const Molecule *mol, const Tile *t, int64_t i)
{
    const vec *p = t->x + 3 * mol->parent[i] * NV, *g = t->x + 3 * mol->grand[i] * NV;
    const vec *s = t->x + 3 * mol->side[i] * NV;
    for (int v = 0; v < NV; v++) {
        vec to[3 * NV], *e = t->axes + v, *f = e + 3 * NV, *h = f + 3 * NV, long_enough, along;
        for (int d = 0; d < 3; d++) {
            t->origin[d * NV + v] = p[d * NV + v];
            e[d * NV] = g[d * NV + v] - p[d * NV + v];
            to[d * NV] = s[d * NV + v] - p[d * NV + v];
        }
        t->between[v] = root(dot(e, e));
        if (i < 3) { /* the first three atoms fix the frame of the molecule */
            float turned = i == 2 && mol->parent[2] == 1 ? -1.0f : 1.0f;
            for (int d = 0; d < 9; d++) e[d * NV] = all(0.0f);
            e[0] += turned;
            e[4 * NV] += 1.0f;
            e[8 * NV] += turned;
            continue;
        }
        long_enough = reciprocal_root(at_least(dot(e, e), 1e-24f));
        for (int d = 0; d < 3; d++) e[d * NV] *= long_enough;
        along = dot(to, e);
        for (int d = 0; d < 3; d++) f[d * NV] = to[d * NV] - along * e[d * NV];
        long_enough = reciprocal_root(at_least(dot(f, f), 1e-24f));
        for (int d = 0; d < 3; d++) f[d * NV] *= long_enough;
        for (int d = 0; d < 3; d++) {
            int a = (d + 1) % 3 * NV, b = (d + 2) % 3 * NV;
            h[d * NV] = e[a] * f[b] - e[b] * f[a];
        }
    }
}

/* Placed atoms in the frame of atom i. */
static void look(const Tile *t, int64_t i)
{
    for (int64_t k = 0; k < i; k++)
        for (int v = 0; v < NV; v++) {
            vec away[3 * NV];
            for (int d = 0; d < 3; d++)
                away[d * NV] = t->x[(3 * k + d) * NV + v] - t->origin[d * NV + v];
            for (int d = 0; d < 3; d++)
                t->local[(3 * k + d) * NV + v] = dot(away, t->axes + 3 * d * NV + v);
        }
}

/* What placed atom k looks like: (SEEN). */
static void seen(const Tile *t, int64_t k, vec *out)
{
    for (int v = 0; v < NV; v++) {
        const vec *local = t->local + 3 * k * NV + v;
        vec square = at_least(dot(local, local), 1e-8f), by = reciprocal_root(square);
        vec r = square * by;
        for (int d = 0; d < 3; d++) {
            out[d * NV + v] = local[d * NV] * by;
            out[(3 + d) * NV + v] = hyperbolic_tangent(local[d * NV] * (1.0f / 0.3f));
        }
        for (int c = 0; c < RADII; c++) {
            vec z = (r - (0.05f + 1.2f / (RADII - 1) * (float)c)) * (1.0f / 0.08f);
            out[(6 + c) * NV + v] = fading(-0.5f * z * z);
        }
    }
}

/* Pair channels of atom i with all placed atoms, and what they add to the logits of attention. */
static void pairs(const Network *net, const Molecule *mol, const Tile *t, int64_t i)
{
    int64_t p = net->pair_channels, stride = places(mol), rows = bias_rows(net);
    vec *features = t->wide, *wide = features + SEEN * NV, *narrow = wide + 2 * p * NV;
    for (int64_t k = 0; k < i; k++) {
        const float *hops = net->hops + 2 * p * mol->hops[i * mol->atoms + k];
        if (i > 2) {
            seen(t, k, features);
            product(net->geometry, hops + 2 * p * HOPS, features, wide, SEEN, 2 * p, 1, 0);
        } else
            for (int64_t r = 0; r < 2 * p * NV; r++) wide[r] = all(hops[r / NV]);
        for (int64_t r = 0; r < 2 * p * NV; r++) wide[r] = silu(wide[r]);
        product(net->pair, net->pair_bias, wide, narrow, 2 * p, p, 1, 0);
        for (int64_t r = 0; r < p * NV; r++) narrow[r] = silu(narrow[r]);
        product(net->biases, net->biases_bias, narrow, t->bias + k * rows * NV, p, rows, 1, 0);
        for (int64_t r = 0; r < p; r++) copy(narrow + r * NV, t->pair + (r * stride + k) * NV, 1);
    }
}

/* Logits of one head's query with `count` placed atoms, BLOCK at a time, into `score`. */
static void scores(const vec *restrict query, const vec *restrict keys, const vec *restrict bias,
                   vec *restrict score, int64_t count, int64_t width, int64_t n, int64_t rows)
{
    for (int64_t k = 0; k < count; k += BLOCK)
        for (int64_t v = 0; v < NV; v += VECTORS) {
            vec sum[BLOCK][VECTORS];
            const vec *key = keys + k * n * NV + v;
            for (int a = 0; a < BLOCK; a++)
                for (int j = 0; j < VECTORS; j++) sum[a][j] = bias[(k + a) * rows * NV + v + j];
            for (int64_t d = 0; d < width * NV; d += NV)
#pragma GCC unroll 4
                for (int a = 0; a < BLOCK; a++)
#pragma GCC unroll 2
                    for (int j = 0; j < VECTORS; j++)
                        sum[a][j] += query[d + v + j] * key[a * n * NV + d + j];
            for (int a = 0; a < BLOCK; a++)
                for (int j = 0; j < VECTORS; j++) score[(k + a) * NV + v + j] = sum[a][j];
        }
}

/* Softmax over `count` logits and one more that is the same for all samples, left out after. */
static void soften(vec *score, int64_t count, float null)
{
    vec top[NV], sum[NV];
    for (int v = 0; v < NV; v++) top[v] = all(null);
    for (int64_t k = 0; k < count * NV; k++) top[k % NV] = greater(top[k % NV], score[k]);
    for (int v = 0; v < NV; v++) sum[v] = fading(null - top[v]);
    for (int64_t k = 0; k < count * NV; k++) {
        score[k] = fading(score[k] - top[k % NV]);
        sum[k % NV] += score[k];
    }
    for (int v = 0; v < NV; v++) sum[v] = reciprocal(sum[v]);
    for (int64_t k = 0; k < count * NV; k++) score[k] *= sum[k % NV];
}

/* Sums over `count` placed atoms of `channels` rows, weighted by the scores. */
static void weigh(const vec *restrict score, const vec *restrict rows, vec *restrict out,
                  int64_t count, int64_t channels, int64_t stride)
{
    for (int64_t r = 0; r < channels; r += BLOCK)
        for (int64_t v = 0; v < NV; v += VECTORS) {
            vec sum[BLOCK][VECTORS] = {{{0}}};
            const vec *row = rows + r * stride * NV + v;
            for (int64_t k = 0; k < count * NV; k += NV)
#pragma GCC unroll 4
                for (int a = 0; a < BLOCK; a++)
#pragma GCC unroll 2
                    for (int j = 0; j < VECTORS; j++)
                        sum[a][j] += score[k + v + j] * row[a * stride * NV + k + j];
            for (int a = 0; a < BLOCK; a++)
                for (int j = 0; j < VECTORS; j++) out[(r + a) * NV + v + j] = sum[a][j];
        }
}

/* Attention of the atom being placed in layer y; `normed` holds the query. */
static void attend(const Network *net, const Molecule *mol, const Tile *t, int64_t i, int64_t y)
{
    int64_t n = net->channels, p = net->pair_channels, width = n / net->heads;
    int64_t stride = places(mol), cache = y * stride * n * NV;
    for (int64_t h = 0; h < net->heads; h++) {
        int64_t first = h * width;
        scores(t->normed + first * NV, t->keys + cache + first * NV,
               t->bias + (y * net->heads + h) * NV, t->score, i, width, n, bias_rows(net));
        soften(t->score, i, net->layers[y].null[h]);
        weigh(t->score, t->values + cache + first * stride * NV, t->mix + first * NV, i, width,
              stride);
        weigh(t->score, t->pair, t->mix + (n + h * p) * NV, i, p, stride);
    }
}

/* Hidden state of atom i, after the last norm, in `hidden`; its states before layers in `inputs`. */
static void think(const Network *net, const Molecule *mol, const Tile *t, int64_t i)
{
    int64_t n = net->channels, p = net->pair_channels, refs[] = {mol->parent[i], mol->grand[i],
                                                                 mol->side[i]};
    vec *wide = t->wide, *deep = wide + 3 * IC_FEATURES * NV;
    for (int r = 0; r < 3; r++)
        copy(t->features + refs[r] * IC_FEATURES * NV, wide + r * IC_FEATURES * NV, IC_FEATURES);
    product(net->refer, net->refer_bias, wide, deep, 3 * IC_FEATURES, n, 1, 0);
    for (int64_t r = 0; r < n * NV; r++) deep[r] = silu(deep[r]);
    product(net->refer_out, net->start + i * n, deep, t->h, n, n, 1, 0);
    pairs(net, mol, t, i);
    for (int64_t y = 0; y < net->num_layers; y++) {
        const Layer *layer = net->layers + y;
        copy(t->h, t->inputs + y * n * NV, n);
        normalise(t->h, t->mix, layer->query_scale, layer->query_shift, n);
        product(layer->query, layer->query_bias, t->mix, t->normed, n, n, 1, 0);
        attend(net, mol, t, i, y);
        product(layer->out, layer->out_bias, t->mix, t->h, n + net->heads * p, n, 1, 1);
        normalise(t->h, t->normed, layer->mlp_scale, layer->mlp_shift, n);
        product(layer->mlp_in, layer->mlp_in_bias, t->normed, wide, n, 2 * n, 1, 0);
        for (int64_t r = 0; r < 2 * n * NV; r++) wide[r] = gelu(wide[r]);
        product(layer->mlp_out, layer->mlp_out_bias, wide, t->h, 2 * n, n, 1, 1);
    }
    normalise(t->h, t->hidden, net->scale, net->shift, n);
}

/* Takes the logarithm of the volume element of atom i's coordinates off the log-densities. */
static void subtract_volume(const Molecule *mol, const Tile *t, int64_t i)
{
    vec volume[NV], sine, unused;
    for (int v = 0; v < NV; v++) {
        sine_cosine(t->bend[v], &sine, &unused);
        vec d = logarithm(at_least(t->distance[v], 1e-30f));
        vec closed = logarithm(at_least(t->bend[v], 1e-6f)) -
                     logarithm(at_least(t->between[v], 1e-6f));
        vec angular = d + logarithm(at_least(sine, 1e-6f));
        volume[v] = d + (mol->closing[i] ? closed : angular);
    }
    for (int l = 0; l < LANES; l++) t->log_prob[l] -= ((const float *)volume)[l];
}

/* Where atom i lies. Draws that are no coordinates of a position make the sample impossible. */
static void put(const Molecule *mol, const Tile *t, int64_t i)
{
    ivec fine[NV];
    for (int v = 0; v < NV; v++) {
        vec d = t->distance[v], s = t->bend[v], between = t->between[v], unused, cosine;
        vec sine, side, up, across;
        sine_cosine(s, &unused, &cosine);
        if (mol->closing[i]) cosine = (d * d + between * between - s * s) / (2.0f * d * between);
        if (i == 1) cosine = all(1.0f); /* along the x axis, by choice of the frame */
        fine[v] = (d > 0.0f) & (cosine >= -1.0f) & (cosine <= 1.0f) & (s > 0.0f);
        if (!mol->closing[i]) fine[v] &= s < (float)PI;
        cosine = within(cosine, -1.0f, 1.0f);
        across = root(1.0f - cosine * cosine);
        sine_cosine(t->torsion[v], &sine, &side);
        up = across * sine;
        side *= across;
        for (int a = 0; a < 3; a++) {
            const vec *axis = t->axes + a * NV + v;
            t->x[(3 * i + a) * NV + v] =
                t->origin[a * NV + v] +
                d * (cosine * axis[0] + side * axis[3 * NV] + up * axis[6 * NV]);
        }
    }
    for (int l = 0; l < LANES; l++) t->possible[l] &= ((const int32_t *)fine)[l] != 0;
}

/* Features, keys and values of atom i, for the atoms that come after. */
static void remember(const Network *net, const Molecule *mol, const Tile *t, int64_t i)
{
    int64_t n = net->channels, stride = places(mol);
    vec *f = t->features + i * IC_FEATURES * NV, told[TORSION * NV];
    memset(f, 0, sizeof(vec) * IC_FEATURES * NV);
    if (i > 0) scaled(t->distance, mol->length0[i], mol->length_scale[i], f);
    if (i > 1) scaled(t->bend, mol->bend0[i], mol->bend_scale[i], f + NV);
    torsion_features(net, mol, i, t->torsion, told);
    if (i > 2) copy(told, f + 2 * NV, TORSION);
    for (int64_t y = 0; y < net->num_layers; y++) {
        const Layer *layer = net->layers + y;
        vec *h = t->inputs + y * n * NV, *cache = t->keys + (y * stride + i) * n * NV;
        product(layer->see, layer->see_bias, f, h, IC_FEATURES, n, 1, 1);
        normalise(h, t->normed, layer->key_scale, layer->key_shift, n);
        product(layer->key, layer->key_bias, t->normed, cache, n, n, 1, 0);
        product(layer->value, layer->value_bias, t->normed,
                t->values + (y * n * stride + i) * NV, n, n, stride, 0);
    }
}

/* Bytes of scratch that a molecule needs. */
int64_t gensci_place_scratch(const Network *net, const Molecule *mol)
{
    Tile t;
    return (int64_t)sizeof(vec) * NV * share_out(net, mol, 0, &t);
}

int64_t gensci_place_lanes(void) { return LANES; }

int64_t gensci_place_rows(void) { return ROWS; }

static void pass(const Network *net, const Molecule *mol, Tile *t, float *scratch)
{
    share_out(net, mol, (vec *)scratch, t);
    for (int l = 0; l < LANES; l++) t->log_prob[l] = 0.0;
    for (int64_t i = 0; i < mol->atoms; i++) {
        frame(mol, t, i);
        look(t, i);
        think(net, mol, t, i);
        coordinates(net, mol, t, i);
        subtract_volume(mol, t, i);
        if (!t->given && i > 0) put(mol, t, i);
        if (i + 1 < mol->atoms) remember(net, mol, t, i);
    }
}

/* Positions (atoms, 3, LANES) of a tile, its log-densities (LANES) without those of rotation and
 * centroid, and whether each sample is possible at all; scratch lies on 64 bytes. */
void gensci_place(const Network *net, const Molecule *mol, const double *uniform,
                  const float *normal, const uint64_t *seed, float *x, double *log_prob,
                  uint8_t *possible, float *scratch)
{
    Tile t = {.uniform = uniform, .normal = normal, .seed = seed, .log_prob = log_prob,
              .possible = possible, .x = (vec *)x};
    memset(x, 0, sizeof(float) * (size_t)(3 * mol->atoms * LANES));
    memset(possible, 1, LANES);
    pass(net, mol, &t, scratch);
}

/* Log-densities (LANES), as above, of positions (atoms, 3, LANES) whose torsions, bends and
 * distances (atoms, 3, LANES) are given. */
void gensci_place_density(const Network *net, const Molecule *mol, float *x,
                          const float *coordinates, double *log_prob, float *scratch)
{
    Tile t = {.given = (const vec *)coordinates, .log_prob = log_prob, .x = (vec *)x};
    pass(net, mol, &t, scratch);
}
