#pragma once

/* Certificates for tests, made on the spot: P-256 keys, whatever names, times and issuers a test wants. Aborts on trouble. */

#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "base/buf.h"

struct cert {
        X509 *x;
        EVP_PKEY *key;
};

struct cert_wish {
        const char *cn;            /* NULL: no subject */
        const char *names;         /* subjectAltName as openssl.cnf has it: "URI:spiffe://a,DNS:b"; NULL: none */
        const struct cert *issuer; /* NULL: itself */
        bool ca;
        const char *usage; /* extendedKeyUsage; NULL: clientAuth,serverAuth */
        long from, until;  /* seconds from now; 0: an hour ago, in a year */
        long serial;       /* 0: chosen */
};

struct cert cert_new(const struct cert_wish *wish);
void cert_done(struct cert *cert);
/* PEM, for the caller to free as bytes_free(). The certificates of all that are given, ended by NULL. */
struct bytes cert_pem(const struct cert *first, ...);
struct bytes cert_key_pem(const struct cert *cert);
/* A list by the issuer of the certificates given, ended by NULL. until: its next update, seconds from now. */
struct bytes cert_revocations(const struct cert *issuer, long until, ...);
void bytes_free(struct bytes *bytes);
