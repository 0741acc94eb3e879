#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "rpc/tls_inside.h"

/*
 * Who has been let in. An API server opens a hundred connections with one certificate, so what is kept of it (its encoding, to be looked at
 * again under another policy, and the words for logs) is shared, and so is the answer to whether a policy still lets it in.
 * Any thread: the table has a lock, and each identity one for its answer.
 */

struct tls_identity {
        unsigned n_refs;      /* under table_lock */
        uint8_t hash[32];     /* of the chain and the label */
        UT_hash_handle hh;    /* under table_lock */
        struct tls_peer peer; /* its strings are in text */
        char *text;           /* owned */
        uint8_t *chain;       /* owned; DER, the leaf first, one after the other */
        size_t n_chain;

        pthread_mutex_t lock; /* of what follows */
        uint64_t serial;      /* of the policy that was asked last */
        int64_t not_after;    /* of the chain by which that one lets it in */
        bool refused;
        char *why; /* owned */
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tls_identity *table;

static void identity_free(struct tls_identity *id) {
        pthread_mutex_destroy(&id->lock);
        free(id->text);
        free(id->chain);
        free(id->why);
        free(id);
}

void tls_identity_unref(struct tls_identity *id) {
        bool last;

        if (!id)
                return;
        pthread_mutex_lock(&table_lock);
        last = --id->n_refs == 0;
        if (last)
                HASH_DEL(table, id);
        pthread_mutex_unlock(&table_lock);
        if (last)
                identity_free(id);
}

static int encode(struct buf *out, X509 *x) {
        int n = i2d_X509(x, NULL), r;
        unsigned char *p;

        if (n <= 0)
                return -EINVAL;
        r = buf_reserve(out, (size_t)n);
        if (r < 0)
                return r;
        p = out->data + out->size;
        out->size += (size_t)i2d_X509(x, &p);
        return 0;
}

/* The leaf is in what OpenSSL gives as the rest, too. */
static int encode_chain(struct buf *out, X509 *leaf, struct stack_st_X509 *chain) {
        int r;

        buf_init(out, 256 * 1024);
        r = encode(out, leaf);
        for (int i = 0; r >= 0 && i < sk_X509_num(chain); i++)
                if (sk_X509_value(chain, i) != leaf)
                        r = encode(out, sk_X509_value(chain, i));
        return r;
}

static const char *keep_text(struct buf *b, size_t at) {
        return (const char *)b->data + at;
}

static int name_print(struct buf *out, const X509_NAME *name) {
        BIO *bio = BIO_new(BIO_s_mem());
        char *data;
        long n;
        int r = -ENOMEM;

        if (bio && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) >= 0) {
                n = BIO_get_mem_data(bio, &data);
                r = buf_append(out, data, min_of((size_t)n, (size_t)256));
                if (r >= 0)
                        r = buf_append(out, "", 1);
        }
        BIO_free(bio);
        return r;
}

static int describe(struct tls_identity *id, const struct tls_verdict *verdict, X509 *leaf) {
        BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(leaf), NULL);
        char *hex = serial ? BN_bn2hex(serial) : NULL;
        size_t at[5];
        struct buf b;
        int r;

        buf_init(&b, 0);
        at[0] = b.size;
        r = buf_append(&b, verdict->label, strlen(verdict->label) + 1);
        at[1] = b.size;
        if (r >= 0)
                r = buf_append(&b, verdict->name, strlen(verdict->name) + 1);
        at[2] = b.size;
        if (r >= 0)
                r = name_print(&b, X509_get_subject_name(leaf));
        at[3] = b.size;
        if (r >= 0)
                r = name_print(&b, X509_get_issuer_name(leaf));
        at[4] = b.size;
        if (r >= 0)
                r = hex ? buf_append(&b, hex, strlen(hex) + 1) : -ENOMEM;
        OPENSSL_free(hex);
        BN_free(serial);
        if (r < 0) {
                buf_done(&b);
                return r;
        }
        id->text = (char *)b.data;
        id->peer = (struct tls_peer){keep_text(&b, at[0]), keep_text(&b, at[1]), keep_text(&b, at[2]),
                keep_text(&b, at[3]), keep_text(&b, at[4]), verdict->not_after};
        return 0;
}

static int hash_of(const struct buf *der, const char *label, uint8_t ret[32]) {
        EVP_MD_CTX *md = EVP_MD_CTX_new();
        int ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
                EVP_DigestUpdate(md, label, strlen(label) + 1) == 1 &&
                EVP_DigestUpdate(md, der->data, der->size) == 1 && EVP_DigestFinal_ex(md, ret, NULL) == 1;

        EVP_MD_CTX_free(md);
        return ok ? 0 : -ENOMEM;
}

int tls_identity_get(const struct tls_server *server, const struct tls_verdict *verdict, X509 *leaf,
        struct stack_st_X509 *chain, struct tls_identity **ret) {
        cleanup(buf_done) struct buf der = {};
        struct tls_identity *id, *found = NULL;
        uint8_t hash[32];
        int r;

        r = encode_chain(&der, leaf, chain);
        if (r >= 0)
                r = hash_of(&der, verdict->label, hash);
        if (r < 0)
                return r;

        id = new0(struct tls_identity);
        pthread_mutex_init(&id->lock, NULL);
        id->n_refs = 1;
        memcpy(id->hash, hash, sizeof(hash));
        r = describe(id, verdict, leaf);
        if (r < 0) {
                identity_free(id);
                return r;
        }
        id->chain = realloc(der.data, der.size); /* what was reserved beyond it goes back */
        if (!id->chain)
                id->chain = der.data;
        id->n_chain = der.size;
        der = (struct buf){};
        id->serial = server->serial;
        id->not_after = verdict->not_after;

        pthread_mutex_lock(&table_lock);
        HASH_FIND(hh, table, hash, sizeof(hash), found);
        if (found)
                found->n_refs++;
        else
                HASH_ADD(hh, table, hash, sizeof(hash), id);
        pthread_mutex_unlock(&table_lock);
        if (found)
                identity_free(id);
        *ret = found ? found : id;
        return 0;
}

const struct tls_peer *tls_identity_peer(const struct tls_identity *id) {
        return &id->peer;
}

/* Asks the policy anew. Under the lock. */
static void identity_ask(struct tls_identity *id, const struct tls_server *now) {
        cleanup(error_done) struct error err = {};
        struct stack_st_X509 *chain = sk_X509_new_null();
        const unsigned char *p = id->chain;
        struct tls_verdict verdict = {.refusal = TLS_REFUSAL_UNTRUSTED};
        X509 *leaf = NULL;

        while (chain && p < id->chain + id->n_chain) {
                X509 *x = d2i_X509(NULL, &p, id->chain + id->n_chain - p);

                if (!x)
                        break;
                if (!leaf)
                        leaf = x;
                else if (sk_X509_push(chain, x) <= 0)
                        X509_free(x);
        }
        if (leaf)
                tls_verify(now, leaf, chain, &verdict, &err);
        X509_free(leaf);
        sk_X509_pop_free(chain, X509_free);

        free(id->why);
        id->why = NULL;
        id->serial = now->serial;
        id->not_after = verdict.not_after;
        id->refused = verdict.refusal != TLS_REFUSAL_NONE || strcmp(verdict.label, id->peer.label) != 0;
        if (verdict.refusal != TLS_REFUSAL_NONE)
                id->why = steal(err.text);
        else if (id->refused && asprintf(&id->why, "it leads to %s now", verdict.label) < 0)
                id->why = NULL;
}

int tls_identity_check(struct tls_identity *id, struct tls_server *now, struct error *reterr) {
        int r = 0;

        pthread_mutex_lock(&id->lock);
        if (id->serial != now->serial)
                identity_ask(id, now);
        if (id->refused)
                r = error_set(reterr, -EACCES, "%s", id->why ? id->why : "out of memory");
        else if (id->not_after < (int64_t)time(NULL))
                r = error_set(reterr, -EACCES, "the certificate, or one of its chain, has expired");
        pthread_mutex_unlock(&id->lock);
        return r;
}
