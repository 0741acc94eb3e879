#pragma once

/*
 * Certificates, keys, requests and revocation lists between OpenSSL's objects and PEM, and OpenSSL's reasons as ours. For certificate.c and authority.c
 * only: what they offer has no type of OpenSSL's in it. Any thread; OpenSSL's queue of errors is left empty.
 */

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "base/buf.h"
#include "base/error.h"

#define DEFINE_PEM_CLEANUP(name, type, free_function)                                                                  \
        static inline void name(type **p) {                                                                            \
                free_function(*p);                                                                                     \
        }
DEFINE_PEM_CLEANUP(x509_freep, X509, X509_free)
DEFINE_PEM_CLEANUP(x509_req_freep, X509_REQ, X509_REQ_free)
DEFINE_PEM_CLEANUP(x509_crl_freep, X509_CRL, X509_CRL_free)
DEFINE_PEM_CLEANUP(pkey_freep, EVP_PKEY, EVP_PKEY_free)

/* Sets the text with OpenSSL's first reason behind it, and forgets the others. Returns code. */
int pem_fail(struct error *reterr, int code, const char *format, ...) printf_like(3, 4);

/* The first certificate of the text, and where it ends (may be NULL). -EBADMSG: there is none. */
int pem_read_certificate(struct bytes text, X509 **ret, size_t *ret_end, struct error *reterr);
/* A private key without a passphrase; one with is -EBADMSG with that reason, and nobody is asked. */
int pem_read_key(struct bytes text, EVP_PKEY **ret, struct error *reterr);
int pem_read_request(struct bytes text, X509_REQ **ret, struct error *reterr);
int pem_read_revocations(struct bytes text, X509_CRL **ret, struct error *reterr);

/* Appended. -ENOMEM, -EMSGSIZE. */
int pem_write_certificate(X509 *certificate, struct buf *ret);
/* PKCS #8; no copy of it stays behind elsewhere. */
int pem_write_key(EVP_PKEY *key, struct buf *ret);
int pem_write_request(X509_REQ *request, struct buf *ret);
int pem_write_revocations(X509_CRL *revocations, struct buf *ret);

/* What keys are signed with: NULL where the key's own method says it (Ed25519). */
const EVP_MD *pem_digest_of(EVP_PKEY *key);
/* Seconds since 1970; 0: it cannot be read. */
int64_t pem_time(const ASN1_TIME *time);
/* Hexadecimal digits in upper case, as `openssl x509 -serial` prints them; owned by the caller. */
char *pem_serial(const ASN1_INTEGER *serial);
