#include "rpc/digest.h"

#include <errno.h>
#include <openssl/evp.h>

struct digest {
        EVP_MD_CTX *context; /* owned */
};

int digest_new(struct digest **ret) {
        cleanup(digest_freep) struct digest *d = new0(struct digest);

        d->context = EVP_MD_CTX_new();
        if (!d->context)
                return -ENOMEM;
        if (EVP_DigestInit_ex(d->context, EVP_sha256(), NULL) != 1)
                return -EOPNOTSUPP;
        *ret = steal(d);
        return 0;
}

void digest_free(struct digest *d) {
        if (!d)
                return;
        EVP_MD_CTX_free(d->context);
        free(d);
}

void digest_add(struct digest *d, const void *data, size_t size) {
        check(EVP_DigestUpdate(d->context, data, size) == 1);
}

void digest_finish(struct digest *d, uint8_t ret[DIGEST_SIZE]) {
        unsigned size = 0;

        check(EVP_DigestFinal_ex(d->context, ret, &size) == 1 && size == DIGEST_SIZE);
}
