/* What the kernel of the internal-coordinate flow is given, and what it keeps of a tile of samples.
 * The order of the fields is that of native_placing.py. */

#ifndef GENSCI_INTERNAL_NETWORK_H
#define GENSCI_INTERNAL_NETWORK_H

#include "kernel_math.h"

#define IC_FEATURES 7
#define RADII 16
#define SEEN (6 + RADII)
#define GRID 36
#define STERIC 3
#define HOPS 9        /* kinds of pairs, by the number of bonds between them */
#define BLOCK 4       /* rows that attention takes together */
#define TORSION 5     /* what bends and distances are told of the torsion */
#define PI 3.14159265358979323846

typedef struct {
    const float *see, *see_bias, *key_scale, *key_shift, *key, *key_bias, *value, *value_bias;
    const float *query_scale, *query_shift, *query, *query_bias, *null, *out, *out_bias;
    const float *mlp_scale, *mlp_shift, *mlp_in, *mlp_in_bias, *mlp_out, *mlp_out_bias;
} Layer;

typedef struct {
    const Layer *layers;
    const float *start;                      /* (atoms, channels) hidden state before references */
    const float *refer, *refer_bias, *refer_out;
    const float *geometry, *hops;            /* hops: (unframed or framed, HOPS, 2 pair) */
    const float *pair, *pair_bias, *biases, *biases_bias; /* biases: of all layers and heads */
    const float *scale, *shift;              /* of the last norm */
    const float *torsion, *torsion_bias, *torsion_out, *torsion_out_bias, *grid, *grid_bias;
    const float *bend, *bend_bias, *bend_out, *bend_out_bias;
    const float *length, *length_bias, *length_out, *length_out_bias;
    const float *around, *spread, *gate;
    int64_t num_layers, channels, heads, pair_channels, free, stiff;
    double rigid_width, rigid_log_kappa, grid_log_kappa, free_log_kappa, free_logit;
    double largest, united;                  /* of the steric energies */
} Network;

typedef struct {
    const int64_t *parent, *grand, *side, *group, *hops; /* (atoms), group (atoms, members) */
    const uint8_t *closing, *rigid;
    const float *torsion0, *length0, *length_scale, *bend0, *bend_scale;
    const float *sigma2, *depth, *charge;    /* (atoms, atoms), zero for close relatives */
    const float *turn;                       /* (atoms, 2, GRID) cosine and sine on the grid */
    int64_t atoms, members;                  /* members: atoms that turn together, at most */
    double ratio;                            /* temperature over that of the training */
} Molecule;

typedef struct {
    const vec *given;      /* (atoms, 3): torsion, bend, distance; null: they are drawn by */
    const double *uniform; /* (atoms, 3, LANES): components of torsion, bend, distance */
    const float *normal;   /* (atoms, 2, LANES): bend, distance */
    const uint64_t *seed;  /* (LANES): of the streams for torsions */
    double *log_prob;      /* (LANES) */
    uint8_t *possible;     /* (LANES) */
    vec *x;                /* (atoms, 3) */
    vec *features, *keys, *values, *pair, *bias, *score, *inputs; /* of all placed atoms */
    vec *h, *normed, *mix, *wide, *hidden;                        /* of the atom being placed */
    vec *origin, *axes, *between, *local;
    vec *torsion, *bend, *distance, *volume;
    vec *energy, *logits, *centre, *spread, *work;
} Tile;

static inline int64_t rounded(int64_t n, int64_t by) { return (n + by - 1) / by * by; }

/* Rows of the cache for each row of a value or a pair channel. */
static inline int64_t places(const Molecule *m) { return rounded(m->atoms, BLOCK); }

/* Biases of one pair in all layers and heads. */
static inline int64_t bias_rows(const Network *net)
{
    return rounded(net->num_layers * net->heads, ROWS);
}

static void copy(const vec *from, vec *to, int64_t rows)
{
    memcpy(to, from, sizeof(vec) * (size_t)(rows * NV));
}

/* Shares scratch out; the number of rows that it must hold. */
static int64_t share_out(const Network *net, const Molecule *m, vec *scratch, Tile *t)
{
    int64_t n = net->channels, a = places(m), p = net->pair_channels, k = GRID + net->free;
    int64_t wide = rounded(3 * net->free + 1 + STERIC, ROWS) + rounded(3 * net->stiff, ROWS);
    if (k < net->stiff) k = net->stiff;
    wide += 2 * n + rounded(GRID, ROWS) + 3 * IC_FEATURES + SEEN + 3 * p;
    struct { vec **part; int64_t rows; } parts[] = {
        {&t->features, a * IC_FEATURES}, {&t->keys, net->num_layers * a * n},
        {&t->values, net->num_layers * n * a}, {&t->pair, p * a}, {&t->bias, a * bias_rows(net)},
        {&t->score, a}, {&t->inputs, net->num_layers * n}, {&t->h, n}, {&t->normed, n},
        {&t->mix, n + net->heads * p}, {&t->wide, wide}, {&t->hidden, n + TORSION + 1},
        {&t->origin, 3}, {&t->axes, 9}, {&t->between, 1}, {&t->local, 3 * a}, {&t->torsion, 1},
        {&t->bend, 1}, {&t->distance, 1}, {&t->volume, 1}, {&t->energy, STERIC * GRID},
        {&t->logits, k}, {&t->centre, k}, {&t->spread, k}, {&t->work, k},
    };
    int64_t used = 0;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (scratch) *parts[i].part = scratch + used * NV;
        used += parts[i].rows;
    }
    return used;
}

#endif
