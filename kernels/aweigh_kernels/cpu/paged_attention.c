/* Attention of a few tokens of each request over a paged cache, read where it lies.

   One pass over what they see, a block at a time, with a running maximum (Milakov and Gimelshein
   2018); all heads and tokens of a block while it is in the nearest cache. Sums are in fp32. A
   token's result does not depend on which others are computed beside it.

   Vectors are GCC's, of 16 numbers: a compiler splits them for a machine that has shorter ones.
   FORMAT (FP32, BF16 or FP16) and HEAD_SIZE (D, a multiple of 16) are given to the compiler. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define TILE 64 /* positions whose scores are held at once: the same for every token */
#define ALIGNMENT 64
#define LINE 64 /* bytes that come from memory together */
#define VECTORS (HEAD_SIZE / LANES)
#define NOTHING -1e30f
#define FP32 0
#define BF16 1
#define FP16 2

#if FORMAT == FP32
typedef float number;
#elif FORMAT == BF16
typedef uint16_t number;
#else
typedef _Float16 number;
#endif

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef number numbers __attribute__((vector_size(sizeof(number) * LANES)));

/* What a call computes: `_Step` of paged_attention.py. */
struct step {
    const number *query;   /* [T, H, D], tokens query_stride numbers apart */
    const number *kv;      /* [B, P, 2K, D], keys first */
    number *output;        /* [T, H, D] */
    const int64_t *tokens; /* [S], the first row of query and output */
    const int64_t *counts; /* [S], how many rows: each sees one position more than the one before */
    const int64_t *seen;   /* [S], positions that the first one sees, were there no window */
    const int64_t *table;  /* [S, table_width], blocks of each request */
    int64_t query_stride, table_width, heads, kv_heads, block_tokens;
    int64_t window;        /* positions that a token sees at most */
    float scale;
};

static inline floats load(const number *from) {
    numbers found;
    memcpy(&found, from, sizeof found);
#if FORMAT == BF16
    return (floats)(__builtin_convertvector(found, words) << 16);
#else
    return __builtin_convertvector(found, floats);
#endif
}

static inline void store(number *to, floats values) {
#if FORMAT == BF16 /* to the nearest, ties to even */
    words bits = (words)values;
    numbers found = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, numbers);
#else
    numbers found = __builtin_convertvector(values, numbers);
#endif
    memcpy(to, &found, sizeof found);
}

static inline float sum(floats values) {
    typedef float eight __attribute__((vector_size(32)));
    typedef float four __attribute__((vector_size(16)));
    eight halves[2];
    four quarters[2];
    memcpy(halves, &values, sizeof halves);
    halves[0] += halves[1];
    memcpy(quarters, halves, sizeof quarters);
    quarters[0] += quarters[1];
    return (quarters[0][0] + quarters[0][1]) + (quarters[0][2] + quarters[0][3]);
}

/* e^x for x <= 0, to about 1e-7 of it: 2^n times a polynomial for 2^f, |f| <= 1/2. */
static inline floats exponential(floats x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const integers tiny = x < -87.0f;
    x = (floats)(((integers)x & ~tiny) | ((integers)((floats){} - 87.0f) & tiny));
    const floats whole = (x * 1.44269504088896341f + magic) - magic;
    const floats rest = (x - whole * 0.693145751953125f) - whole * 1.42860682030941723e-6f;
    floats found = rest * (1.0f / 720) + 1.0f / 120;
    found = found * rest + 1.0f / 24;
    found = found * rest + 1.0f / 6;
    found = found * rest + 0.5f;
    found = found * rest + 1.0f;
    found = found * rest + 1.0f;
    return (floats)((integers)found + (__builtin_convertvector(whole, integers) << 23));
}

/* Scores become weights. What was summed before counts as much as is returned. */
static inline float weigh(float *scores, int64_t count, float *most, float *total) {
    const float before = *most;
    for (int64_t j = 0; j < count; j++)
        if (scores[j] > *most) *most = scores[j];
    for (int64_t j = count; j % LANES; j++) scores[j] = NOTHING;
    floats weights = {};
    for (int64_t j = 0; j < count; j += LANES) {
        floats each;
        memcpy(&each, scores + j, sizeof each);
        each = exponential(each - *most);
        memcpy(scores + j, &each, sizeof each);
        weights += each;
    }
    const float kept = *most > before ? exponential((floats){} + (before - *most))[0] : 1.0f;
    *total = *total * kept + sum(weights);
    return kept;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

/* What is known of the tokens of a request, for heads that share their keys: [heads, tokens]. */
struct state {
    floats (*query)[VECTORS], (*sums)[VECTORS];
    float (*scores)[TILE];
    float *most, *total;
};

/* Some positions of one block, from `at` on: keys and values [count, D], `apart` numbers apart. */
static inline void add_block(
    const struct state *state, const number *keys, const number *values, int64_t apart, int64_t at,
    int64_t count, int64_t sharing, int64_t tokens, int64_t seen, int64_t window
) {
    float (*scores)[TILE] = state->scores;
    floats value[TILE][VECTORS];
    for (int64_t j = 0; j < count; j++) {
        floats key[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            key[v] = load(keys + j * apart + v * LANES);
            value[j][v] = load(values + j * apart + v * LANES);
        }
        for (int64_t i = 0; i < sharing * tokens; i++) {
            floats product = state->query[i][0] * key[0];
            for (int v = 1; v < VECTORS; v++) product += state->query[i][v] * key[v];
            scores[i][j] = sum(product);
        }
    }
    for (int64_t i = 0; i < sharing * tokens; i++) {
        const int64_t high = seen + i % tokens;
        const int64_t first = largest(high - window - at, 0), last = least(high - at, count);
        if (first >= last) continue;
        float *each = scores[i];
        if (first) memmove(each, each + first, (last - first) * sizeof *each);
        const float kept = weigh(each, last - first, &state->most[i], &state->total[i]);
        floats found[VECTORS];
        for (int v = 0; v < VECTORS; v++) found[v] = state->sums[i][v] * kept;
        for (int64_t j = first; j < last; j++)
            for (int v = 0; v < VECTORS; v++) found[v] += each[j - first] * value[j][v];
        for (int v = 0; v < VECTORS; v++) state->sums[i][v] = found[v];
    }
}

/* Have rows brought near: the next block lies anywhere, and no machine foresees where. */
static inline void ask(const number *row, int64_t apart, int64_t count) {
    for (int64_t j = 0; j < count; j++)
        for (size_t byte = 0; byte < HEAD_SIZE * sizeof(number); byte += LINE)
            __builtin_prefetch((const char *)(row + j * apart) + byte, 0, 2);
}

/* One request, for some heads of keys; `memory` holds their state. */
static void attend_request(
    const struct step *step, int64_t request, int64_t head, int64_t last, struct state memory
) {
    const int64_t kv_heads = step->kv_heads, sharing = step->heads / kv_heads;
    const int64_t apart = 2 * kv_heads * HEAD_SIZE, block_tokens = step->block_tokens;
    const int64_t tokens = step->counts[request], seen = step->seen[request];
    const int64_t end = seen + tokens - 1, each = sharing * tokens, all = (last - head) * each;
    const int64_t *blocks = step->table + request * step->table_width;
    floats (*query)[VECTORS] = memory.query, (*sums)[VECTORS] = memory.sums;
    float *most = memory.most, *total = memory.total;
    for (int64_t i = 0; i < all; i++) {
        const int64_t row = step->tokens[request] + i % tokens;
        const number *from =
            step->query + row * step->query_stride + (head * sharing + i / tokens) * HEAD_SIZE;
        for (int v = 0; v < VECTORS; v++) {
            query[i][v] = load(from + v * LANES) * step->scale;
            sums[i][v] = (floats){};
        }
        most[i] = NOTHING;
        total[i] = 0;
    }
    for (int64_t at = largest(seen - step->window, 0), count; at < end; at += count) {
        const int64_t place = at % block_tokens, block = blocks[at / block_tokens];
        const number *kv = step->kv + (block * block_tokens + place) * apart;
        count = least(least(block_tokens - place, TILE - place % TILE), end - at);
        const int64_t next = at + count;
        const number *ahead = next >= end ? kv : step->kv +
            (blocks[next / block_tokens] * block_tokens + next % block_tokens) * apart;
        for (int64_t shared = head; shared < last; shared++) {
            const int64_t i = (shared - head) * each;
            const struct state state = {query + i, sums + i, memory.scores, most + i, total + i};
            const number *keys = kv + shared * HEAD_SIZE;
            ask(ahead + shared * HEAD_SIZE, apart, count);
            ask(ahead + (kv_heads + shared) * HEAD_SIZE, apart, count);
            add_block(
                &state, keys, keys + kv_heads * HEAD_SIZE, apart, at, count, sharing, tokens, seen,
                step->window
            );
        }
    }
    for (int64_t i = 0; i < all; i++) {
        const int64_t row = step->tokens[request] + i % tokens;
        number *to = step->output + (row * step->heads + head * sharing + i / tokens) * HEAD_SIZE;
        for (int v = 0; v < VECTORS; v++) store(to + v * LANES, sums[i][v] / total[i]);
    }
}

/* Items first to last - 1: request and head of keys, request · K + head. 0, or 1: no memory. */
int attend(const struct step *step, int64_t first, int64_t last) {
    const int64_t kv_heads = step->kv_heads, sharing = step->heads / kv_heads;
    int64_t tokens = 0;
    for (int64_t request = first / kv_heads; request * kv_heads < last; request++)
        tokens = largest(tokens, step->counts[request]);
    const int64_t rows = sharing * tokens, all = least(kv_heads, last - first) * rows;
    const int64_t vectors = 2 * VECTORS * sizeof(floats), lanes = (all + LANES - 1) / LANES * LANES;
    char *memory = aligned_alloc(
        ALIGNMENT, all * vectors + rows * TILE * sizeof(float) + 2 * lanes * sizeof(float)
    );
    if (!memory) return 1;
    struct state state;
    state.query = (floats(*)[VECTORS])memory;
    state.sums = state.query + all;
    state.scores = (float (*)[TILE])(state.sums + all);
    state.most = (float *)(state.scores + rows);
    state.total = state.most + lanes;
    for (int64_t item = first; item < last;) {
        const int64_t request = item / kv_heads, head = item % kv_heads;
        const int64_t count = least(kv_heads - head, last - item);
        attend_request(step, request, head, head + count, state);
        item += count;
    }
    free(memory);
    return 0;
}
