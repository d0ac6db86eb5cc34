/* Inverse of one TarFlow block for tiles of LANES samples of one system, in single precision.
 *
 * Samples lie innermost: an activation is (tiles, channels, LANES), so every loop runs over samples
 * and a sample's arithmetic does not depend on how many there are. Weights are read once for all
 * tiles: those of a large network do not fit a cache, and reading them takes longer than their use.
 * The order of the pointers in `Layer` and `Block` is that of native_inverse.py; matrices are
 * (rows, columns).
 */

#include "tarflow_arithmetic.h"
#include "tarflow_tiles.h"

typedef struct {
    const float *scale1, *shift1, *gate1; /* adaptive terms (atoms, channels); null: additive */
    const float *additive;
    const float *scale2, *shift2, *gate2; /* of the transition */
    const float *norm_scale, *norm_shift, *qkv_bias, *q_scale, *q_shift, *k_scale, *k_shift;
    const float *out_bias, *mlp_scale, *mlp_shift, *mlp_in_bias, *mlp_out_bias;
    const void *qkv, *out, *mlp_in, *mlp_out; /* float, or packed where the block has parts */
    const void *value_gate, *transition_out;  /* null: no transition */
} Layer;

typedef struct {
    const float *enter;         /* (channels, 3) */
    const float *offsets;       /* (atoms, channels) */
    const float *leave, *leave_bias;
    const Layer *layers;
    int64_t num_layers, atoms, channels, heads, mlp_width, transition_width;
    int64_t parts; /* bfloat16 numbers that stand for one weight; 0: plain floats */
} Block;

/* Make activations ready to be multiplied: split them into `room` where the weights are packed. */
static void ready(const Block *b, Span in, int64_t channels, int64_t tiles, uint32_t *room)
{
#ifdef PACKED
    int64_t size = b->parts * channels / 2 * LANES;
    for (int64_t g = 0; g < tiles && b->parts; g++)
        split(in.at + g * in.tile, room + g * size, channels, b->parts);
#endif
}

/* out = W in + bias (+ out) of plain or packed weights, for an input that is ready. */
static void multiply(const Block *b, Part m, Span in, const uint32_t *room, Span out,
                     int64_t tiles, int add)
{
#ifdef PACKED
    if (b->parts) {
        if (m.bias || !add) start(m, out, tiles, add);
        tile_product(m, room, out, tiles, b->parts);
        return;
    }
#endif
    plain_product(m, in, out, tiles, add);
}

/* What the layers share: tiles (tile, channels, LANES) and the inputs of products, split. */
typedef struct {
    const Block *b;
    int64_t tiles, tile;        /* how many; floats of one activation */
    float *u, *v, *w;           /* tokens; the branch; its normalised form */
    Span wide;                  /* a panel of hidden channels, or queries and keys */
    uint32_t *room, *wide_room; /* of w and of wide */
    float *score;
} Work;

#define EACH(g) for (int64_t g = 0; g < k->tiles; g++)

/* v += the output of a feed-forward network of the input w, in panels that stay in the second
 * cache; a second matrix of the first layer's rows gates the first where there are twice as many. */
static void feed(const Work *k, const void *first, const float *bias, const void *second,
                 const float *second_bias, int64_t hidden, int gated, float *out)
{
    int64_t n = k->b->channels;
    Span w = {k->w, k->tile}, v = {out, k->tile}, gate = {k->wide.at + PANEL * LANES, k->wide.tile};
    ready(k->b, w, n, k->tiles, k->room);
    for (int64_t h = 0; h < hidden; h += PANEL) {
        int64_t size = h + PANEL < hidden ? PANEL : hidden - h;
        Part up = {first, n, h, 0, size, n, bias ? bias + h : 0};
        Part over = {first, n, hidden + h, 0, size, n, 0};
        Part down = {second, hidden, 0, h, n, size, h ? 0 : second_bias};
        multiply(k->b, up, w, k->room, k->wide, k->tiles, 0);
        if (gated) multiply(k->b, over, w, k->room, gate, k->tiles, 0);
        EACH(g)
        {
            float *x = k->wide.at + g * k->wide.tile;
            if (gated)
                gate_values(x, gate.at + g * gate.tile, size);
            else
                gelu_channels(x, size);
        }
        ready(k->b, k->wide, size, k->tiles, k->wide_room);
        multiply(k->b, down, k->wide, k->wide_room, v, k->tiles, !gated || h);
    }
}

/* v += attention of token i, whose normalised form is w, to itself and the ones before. */
static void mix(const Work *k, const Layer *y, int64_t i, Span keys, Span values)
{
    const Block *b = k->b;
    int64_t n = b->channels, now = i * k->tile;
    Span w = {k->w, k->tile}, v = {k->v, k->tile}, wide = k->wide;
    Span own_key = {wide.at + k->tile, wide.tile}, own_value = {values.at + now, values.tile};
    Part query = {y->qkv, n, 0, 0, n, n, y->qkv_bias}, key = query, value = query;
    key.row = n, key.bias += n, value.row = 2 * n, value.bias += 2 * n;
    ready(b, w, n, k->tiles, k->room);
    multiply(b, query, w, k->room, wide, k->tiles, 0);
    multiply(b, key, w, k->room, own_key, k->tiles, 0);
    multiply(b, value, w, k->room, own_value, k->tiles, 0);
    EACH(g)
    {
        float *own = wide.at + g * wide.tile, *q = k->w + g * k->tile, *past = keys.at + g * keys.tile;
        normalised(own, q, y->q_scale, y->q_shift, n);
        normalised(own + k->tile, past + now, y->k_scale, y->k_shift, n);
        attend(q, past, values.at + g * values.tile, own, k->score, i + 1, n, b->heads);
    }
    ready(b, wide, n, k->tiles, k->room);
    multiply(b, (Part){y->out, n, 0, 0, n, n, y->out_bias}, wide, k->room, v, k->tiles, 1);
}

/* Token i through one layer. */
static void step(const Work *k, const Layer *y, int64_t i, Span keys)
{
    const Block *b = k->b;
    int64_t n = b->channels, at = i * n;
    Span values = {keys.at + b->atoms * k->tile, keys.tile};
    EACH(g)
    {
        float *u = k->u + g * k->tile, *v = k->v + g * k->tile;
        if (y->scale1)
            normalised(u, v, y->scale1 + at, y->shift1 + at, n);
        else
            for (int64_t c = 0; c < n; c++)
                for (int l = 0; l < LANES; l++)
                    v[c * LANES + l] = u[c * LANES + l] + y->additive[at + c];
        normalised(v, k->w + g * k->tile, y->norm_scale, y->norm_shift, n);
    }
    mix(k, y, i, keys, values);
    EACH(g) normalised(k->v + g * k->tile, k->w + g * k->tile, y->mlp_scale, y->mlp_shift, n);
    feed(k, y->mlp_in, y->mlp_in_bias, y->mlp_out, y->mlp_out_bias, b->mlp_width, 0, k->v);
    EACH(g) merge(k->u + g * k->tile, k->v + g * k->tile, y->gate1 ? y->gate1 + at : 0, n);
    if (!y->value_gate) return;
    EACH(g) normalised(k->u + g * k->tile, k->w + g * k->tile, y->scale2 + at, y->shift2 + at, n);
    feed(k, y->value_gate, 0, y->transition_out, 0, b->transition_width, 1, k->v);
    EACH(g) merge(k->u + g * k->tile, k->v + g * k->tile, y->gate2 + at, n);
}

/* Turn noise x (tiles, atoms, 3, LANES) into positions in place and add the log-scales to total
 * (tiles, LANES). Scratch for each tile: the caches, 3 channels for u, v and w, the wide panel, and
 * with parts half a part for each channel of w and of a panel; and once the scores. */
void gensci_invert_block(const Block *b, float *x, double *total, float *scratch, int64_t tiles)
{
    int64_t n = b->channels, tile = n * LANES, cache = 2 * b->atoms * tile;
    int64_t panel = 2 * (n > PANEL ? n : PANEL) * LANES;
    float *u = scratch + tiles * b->num_layers * cache, *v = u + tiles * tile, *w = v + tiles * tile;
    float *wide = w + tiles * tile, *score = wide + tiles * panel;
    uint32_t *room = (uint32_t *)(score + b->atoms * LANES);
    uint32_t *wide_room = room + tiles * b->parts * tile / 2;
    Work work = {b, tiles, tile, u, v, w, {wide, panel}, room, wide_room, score}, *k = &work;
#ifdef TILES
    if (b->parts) open_tiles();
#endif
    for (int64_t i = 0; i + 1 < b->atoms; i++) {
        EACH(g)
        {
            const float *from = x + (g * b->atoms + i) * 3 * LANES;
            for (int64_t c = 0; c < n; c++) {
                const float *e = b->enter + 3 * c;
                for (int l = 0; l < LANES; l++)
                    u[g * tile + c * LANES + l] = b->offsets[i * n + c] + e[0] * from[l] +
                                                  e[1] * from[LANES + l] + e[2] * from[2 * LANES + l];
            }
        }
        for (int64_t y = 0; y < b->num_layers; y++) {
            Span keys = {scratch + y * cache, b->num_layers * cache};
            step(k, b->layers + y, i, keys);
        }
        EACH(g)
        {
            float affine[ROWS * LANES] __attribute__((aligned(64)));
            float *to = x + (g * b->atoms + i + 1) * 3 * LANES;
            Span in = {u + g * tile, tile}, out = {affine, ROWS * LANES};
            plain_product((Part){b->leave, n, 0, 0, ROWS, n, b->leave_bias}, in, out, 1, 0);
            for (int d = 0; d < 3; d++)
                for (int l = 0; l < LANES; l++) {
                    float a = affine[d * LANES + l];
                    to[d * LANES + l] = to[d * LANES + l] * expf(a) + affine[(3 + d) * LANES + l];
                    total[g * LANES + l] += a;
                }
        }
    }
#ifdef TILES
    if (b->parts) _tile_release();
#endif
}
