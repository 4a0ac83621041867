/* Attention of single tokens over a paged cache: keys and values are read where they lie.

   One pass over what a token sees, a block at a time, with a running maximum (Milakov and
   Gimelshein 2018), and all heads of a block while it is in the nearest cache. Sums are in fp32. A
   token's result does not depend on which others are computed beside it.

   Vectors are GCC's, of 16 numbers: a compiler splits them for a machine that has shorter ones.
   FORMAT (FP32, BF16 or FP16) and HEAD_SIZE (D, a multiple of 16) are given to the compiler. */

#include <stdint.h>
#include <string.h>

#define LANES 16
#define TILE 64 /* tokens whose scores are held at once */
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
    const number *query;     /* [T, H, D], tokens query_stride numbers apart */
    const number *kv;        /* [B, P, 2K, D], keys first */
    number *output;          /* [T, H, D] */
    const int64_t *tokens;   /* [R], rows of query and output */
    const int64_t *requests; /* [R], rows of the table */
    const int64_t *lows;     /* [R], the first position that is seen */
    const int64_t *highs;    /* [R], behind the last one */
    const int64_t *table;    /* [S, table_width], blocks of each request */
    int64_t query_stride, table_width, heads, kv_heads, block_tokens;
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

/* Some tokens of one block, kv [count, 2K, D], for the heads that share one of the keys. */
static inline void add_block(
    const floats (*query)[VECTORS], const number *keys, const number *values, int64_t apart,
    int64_t count, int64_t sharing, float *most, float *total, floats (*sums)[VECTORS]
) {
    float scores[sharing][TILE];
    for (int64_t j = 0; j < count; j++)
        for (int64_t head = 0; head < sharing; head++) {
            floats product = {};
            for (int v = 0; v < VECTORS; v++)
                product += query[head][v] * load(keys + j * apart + v * LANES);
            scores[head][j] = sum(product);
        }
    for (int64_t head = 0; head < sharing; head++) {
        const float kept = weigh(scores[head], count, &most[head], &total[head]);
        floats found[VECTORS];
        for (int v = 0; v < VECTORS; v++) found[v] = sums[head][v] * kept;
        for (int64_t j = 0; j < count; j++)
            for (int v = 0; v < VECTORS; v++)
                found[v] += scores[head][j] * load(values + j * apart + v * LANES);
        for (int v = 0; v < VECTORS; v++) sums[head][v] = found[v];
    }
}

/* Rows first to last - 1 of a step. */
void attend(const struct step *step, int64_t first, int64_t last) {
    const int64_t heads = step->heads, kv_heads = step->kv_heads, sharing = heads / kv_heads;
    const int64_t apart = 2 * kv_heads * HEAD_SIZE, block_tokens = step->block_tokens;
    floats query[heads][VECTORS], sums[heads][VECTORS];
    float most[heads], total[heads];
    for (int64_t row = first; row < last; row++) {
        const int64_t token = step->tokens[row], high = step->highs[row];
        const int64_t *blocks = step->table + step->requests[row] * step->table_width;
        for (int64_t head = 0; head < heads; head++) {
            const number *from = step->query + token * step->query_stride + head * HEAD_SIZE;
            for (int v = 0; v < VECTORS; v++) {
                query[head][v] = load(from + v * LANES) * step->scale;
                sums[head][v] = (floats){};
            }
            most[head] = NOTHING;
            total[head] = 0;
        }
        for (int64_t at = step->lows[row], count; at < high; at += count) {
            const int64_t place = at % block_tokens, block = blocks[at / block_tokens];
            const number *kv = step->kv + (block * block_tokens + place) * apart;
            count = block_tokens - place < TILE ? block_tokens - place : TILE;
            count = high - at < count ? high - at : count;
            for (int64_t head = 0; head < heads; head += sharing) {
                const number *keys = kv + head / sharing * HEAD_SIZE;
                add_block(
                    query + head, keys, keys + kv_heads * HEAD_SIZE, apart, count, sharing,
                    most + head, total + head, sums + head
                );
            }
        }
        number *to = step->output + token * heads * HEAD_SIZE;
        for (int64_t head = 0; head < heads; head++)
            for (int v = 0; v < VECTORS; v++)
                store(to + head * HEAD_SIZE + v * LANES, sums[head][v] / total[head]);
    }
}
