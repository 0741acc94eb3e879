#include <openssl/crypto.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "rpc/tls_inside.h"

/*
 * OpenSSL's memory. A handshake takes three buffers of 16 KiB and gives them back among what its connection keeps, which leaves a connection with holes of
 * a third of its size around it. So buffers of that size come from a place of their own: a range of addresses cut into equal pieces, of which
 * those that have not been used of late have no memory behind them. All else, and what finds no piece, is malloc()'s. Any thread.
 */

#define PIECE ((size_t)20 * 1024)
#define PIECE_LEAST ((size_t)12 * 1024)
#define N_PIECES 4096
#define N_WARM 32 /* free ones that keep their memory */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *range;               /* NULL: there is none */
static uint16_t unused[N_PIECES];    /* a stack: the last given back is the first taken */
static bool cold[N_PIECES];          /* unused, and without memory */
static size_t n_unused, n_untouched; /* of the range, those from n_untouched on were never used */

static bool is_piece(const void *p) {
        return range && (const uint8_t *)p >= range && (const uint8_t *)p < range + N_PIECES * PIECE;
}

static void *piece_get(void) {
        uint8_t *p = NULL;

        pthread_mutex_lock(&lock);
        if (n_unused) {
                cold[unused[--n_unused]] = false;
                p = range + unused[n_unused] * PIECE;
        } else if (n_untouched < N_PIECES)
                p = range + n_untouched++ * PIECE;
        pthread_mutex_unlock(&lock);
        return p;
}

static void piece_put(void *p) {
        size_t i = (size_t)((uint8_t *)p - range) / PIECE;

        pthread_mutex_lock(&lock);
        unused[n_unused++] = (uint16_t)i;
        /* A burst is over: the one that sinks below the warm ones is the least likely to be wanted soon. */
        if (n_unused > N_WARM && !cold[unused[n_unused - 1 - N_WARM]]) {
                size_t sunk = unused[n_unused - 1 - N_WARM];

                cold[sunk] = true;
                (void)madvise(range + sunk * PIECE, PIECE, MADV_DONTNEED);
        }
        pthread_mutex_unlock(&lock);
}

static void *get(size_t size, const char *file, int line) {
        void *p = NULL;

        (void)file;
        (void)line;
        if (range && size >= PIECE_LEAST && size <= PIECE)
                p = piece_get();
        return p ? p : malloc(size);
}

static void put(void *p, const char *file, int line) {
        (void)file;
        (void)line;
        if (is_piece(p))
                piece_put(p);
        else
                free(p);
}

static void *resize(void *p, size_t size, const char *file, int line) {
        void *more;

        if (!is_piece(p))
                return realloc(p, size);
        if (size <= PIECE && size >= PIECE_LEAST)
                return p;
        more = malloc(size);
        if (more) {
                memcpy(more, p, min_of(size, PIECE));
                put(p, file, line);
        }
        return more;
}

/* Before main(): it must come before anybody's first use of OpenSSL, and is refused afterwards, when all is malloc()'s. */
__attribute__((constructor)) static void prepare(void) {
        void *p = mmap(
                NULL, N_PIECES * PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (p == MAP_FAILED)
                return;
        if (CRYPTO_set_mem_functions(get, resize, put) == 1)
                range = p;
        else
                (void)munmap(p, N_PIECES * PIECE);
}

/* Whoever makes a context links this file. */
void tls_memory(void) {
}
