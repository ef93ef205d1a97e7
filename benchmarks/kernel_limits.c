/* What the machine can do at most: multiply-adds, reciprocal roots, and triads.

   Vectors are as wide as the compiler was allowed to make them. Each function returns how much was
   done by all threads; Python holds the clock. */

#include <stddef.h>
#if defined(__AVX512F__) || defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

enum { CHAINS = 12 }; /* independent results: more than latency times ports, fewer than registers */

typedef double doubles __attribute__((vector_size(BYTES)));
typedef float floats __attribute__((vector_size(BYTES)));

static volatile double sink; /* what is written here cannot be left out */

/* CHAINS values of a type, each replaced by `NEXT` of itself, `rounds` times in each thread. */
#define REPEAT(TYPE, NEXT)                                       \
    _Pragma("omp parallel num_threads(threads)")                 \
    {                                                            \
        TYPE value[CHAINS];                                      \
        for (int k = 0; k < CHAINS; k++)                         \
            value[k] = (TYPE){k + 1}; /* all differ */           \
        for (long round = 0; round < rounds; round++) {          \
            _Pragma("GCC unroll 12")                             \
            for (int k = 0; k < CHAINS; k++)                     \
                value[k] = NEXT(value[k]);                       \
        }                                                        \
        TYPE sum = {0};                                          \
        for (int k = 0; k < CHAINS; k++)                         \
            sum += value[k];                                     \
        sink = (double)sum[0];                                   \
    }                                                            \
    return (double)rounds * CHAINS * (BYTES / sizeof((TYPE){0}[0])) * threads;

#define SCALED(value) ((value) * 0.5 + 1.0)
#define SCALED_FLOAT(value) ((value) * 0.5f + 1.0f)

/* Both return multiply-adds: each is two floating-point operations. */
double multiply_add_double(long rounds, int threads) { REPEAT(doubles, SCALED) }
double multiply_add_float(long rounds, int threads) { REPEAT(floats, SCALED_FLOAT) }

/* Approximate reciprocal roots; 0 where no instruction makes them. */
double reciprocal_root_double(long rounds, int threads)
{
#if defined(__AVX512F__)
    REPEAT(doubles, (doubles)_mm512_rsqrt14_pd)
#else
    return 0.0;
#endif
}

double reciprocal_root_float(long rounds, int threads)
{
#if defined(__AVX512F__)
    REPEAT(floats, (floats)_mm512_rsqrt14_ps)
#elif defined(__AVX__)
    REPEAT(floats, (floats)_mm256_rsqrt_ps)
#else
    return 0.0;
#endif
}

/* a = b + 3 c, each thread on its own part of the arrays; returns bytes, 24 an element. */
double triad(double *a, const double *b, const double *c, long length, long rounds, int threads)
{
    long part = length / threads;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; thread++) {
        double *restrict to = a + thread * part;
        const double *from = b + thread * part, *scaled = c + thread * part;
        for (long round = 0; round < rounds; round++) {
            for (long i = 0; i < part; i++)
                to[i] = from[i] + 3.0 * scaled[i];
            __asm__ volatile("" ::: "memory");
        }
    }
    return 24.0 * part * rounds * threads;
}
