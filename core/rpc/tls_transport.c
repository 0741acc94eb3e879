#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rpc/tls_inside.h"

/*
 * A connection that speaks TLS, after its handshake. OpenSSL sees neither the socket nor when it is ready: its BIO reads from what one recv()
 * brought and writes to a buffer of the thread, which one send() takes, so that a batch of many records costs one system call and an idle
 * connection holds no buffer, neither OpenSSL's nor ours.
 *
 * What a socket does not take of a record cannot be taken back, nor is it sent: its content is told as taken once it has gone, so that whoever
 * writes waits for the socket as for a plain one, and comes with the same bytes again. One thread at a time.
 */

#define RECORD (16 * 1024)
#define RECORD_ROOM (RECORD + 512)
#define STAGE_BYTES (8 * RECORD_ROOM)
/* What OpenSSL may want to say on its own (alerts, new keys) to a peer that takes nothing. */
#define MOST_WAITING ((size_t)STAGE_BYTES + 64 * 1024)
#define GIVEN_BYTES (64 * 1024)

static _Thread_local uint8_t given[GIVEN_BYTES];
static _Thread_local struct {
        uint8_t bytes[STAGE_BYTES];
        size_t n;
} stage;
static _Thread_local uint8_t content[RECORD];

/* OpenSSL's side. */

static int out_append(struct tls_transport *t, const void *data, size_t n) {
        uint8_t *more;

        if (t->n_out + n > MOST_WAITING)
                return -ENOBUFS;
        more = realloc(t->out, t->n_out + n);
        if (!more)
                return -ENOMEM;
        t->out = more;
        memcpy(t->out + t->n_out, data, n);
        t->n_out += n;
        return 0;
}

static int bio_write(BIO *bio, const char *data, size_t n, size_t *ret) {
        struct tls_transport *t = BIO_get_data(bio);

        BIO_clear_retry_flags(bio);
        if (!t->n_out && n <= sizeof(stage.bytes) - stage.n) {
                memcpy(stage.bytes + stage.n, data, n);
                stage.n += n;
        } else {
                /* Order is kept: what is in the stage goes before. */
                size_t before = stage.n;

                stage.n = 0;
                if ((before && out_append(t, stage.bytes, before) < 0) || out_append(t, data, n) < 0)
                        return -1;
        }
        t->wrote = true;
        *ret = n;
        return 1;
}

static int bio_read(BIO *bio, char *data, size_t n, size_t *ret) {
        struct tls_transport *t = BIO_get_data(bio);

        BIO_clear_retry_flags(bio);
        n = min_of(n, t->n_given);
        if (!n) {
                *ret = 0;
                if (t->hung_up)
                        return 0;
                BIO_set_retry_read(bio);
                return -1;
        }
        memcpy(data, t->given, n);
        t->given += n;
        t->n_given -= n;
        *ret = n;
        return 1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *data) {
        struct tls_transport *t = BIO_get_data(bio);

        (void)number;
        (void)data;
        switch (command) {
        case BIO_CTRL_FLUSH:
                return 1;
        case BIO_CTRL_EOF:
                return t->hung_up && !t->n_given;
        default:
                return 0;
        }
}

static BIO_METHOD *method;

static void make_method(void) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "stokehold");
        check(method && BIO_meth_set_write_ex(method, bio_write) && BIO_meth_set_read_ex(method, bio_read) &&
                BIO_meth_set_ctrl(method, bio_ctrl));
}

int tls_transport_attach(struct tls_transport *t) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        BIO *bio;

        (void)pthread_once(&once, make_method);
        bio = BIO_new(method);
        if (!bio)
                return -ENOMEM;
        BIO_set_data(bio, t);
        BIO_set_init(bio, 1);
        SSL_set_bio(t->ssl, bio, bio);
        SSL_set_app_data(t->ssl, t);
        return 0;
}

/* The socket's side. */

int tls_transport_fill(struct tls_transport *t, size_t most) {
        ssize_t n;

        if (t->n_in) { /* in front of the thread's buffer, so that it needs no copy of its own afterwards */
                size_t k = min_of(t->n_in, sizeof(given));

                memcpy(given, t->in, k);
                t->given = given;
                t->n_given = k;
                if (k < t->n_in)
                        memmove(t->in, t->in + k, t->n_in - k);
                else {
                        free(t->in);
                        t->in = NULL;
                }
                t->n_in -= k;
                return 1;
        }
        do
                n = recv(t->transport.fd, given, min_of(most, sizeof(given)), 0);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        t->given = given;
        t->n_given = (size_t)n;
        t->hung_up = n == 0;
        return 1;
}

int tls_transport_keep(struct tls_transport *t) {
        uint8_t *all;

        if (!t->n_given)
                return 0;
        all = malloc(t->n_given + t->n_in);
        if (!all)
                return -ENOMEM;
        memcpy(all, t->given, t->n_given);
        if (t->n_in)
                memcpy(all + t->n_given, t->in, t->n_in);
        free(t->in);
        t->in = all;
        t->n_in += t->n_given;
        t->n_given = 0;
        t->given = NULL;
        return 0;
}

static ssize_t send_some(struct tls_transport *t, const uint8_t *data, size_t size) {
        ssize_t n;

        do
                n = send(t->transport.fd, data, size, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? 0 : -errno;
        return n;
}

int tls_transport_flush(struct tls_transport *t) {
        ssize_t n;

        if (t->n_out) {
                check(!stage.n);
                n = send_some(t, t->out + t->out_sent, t->n_out - t->out_sent);
                if (n < 0)
                        return (int)n;
                t->out_sent += (size_t)n;
                if (t->out_sent < t->n_out)
                        return 0;
                free(t->out);
                t->out = NULL;
                t->out_sent = t->n_out = 0;
                t->paid += t->owed;
                t->owed = 0;
        } else if (stage.n) {
                size_t size = stage.n;

                stage.n = 0;
                n = send_some(t, stage.bytes, size);
                if (n < 0)
                        return (int)n;
                if ((size_t)n < size) {
                        int r = out_append(t, stage.bytes + n, size - (size_t)n);

                        return r < 0 ? r : 0;
                }
        }
        return 1;
}

int tls_transport_hold(struct tls_transport *t) {
        size_t n = stage.n;

        stage.n = 0;
        return n ? out_append(t, stage.bytes, n) : 0;
}

int tls_transport_fate(struct tls_transport *t, int r) {
        const char *reason;
        int error = SSL_get_error(t->ssl, r);

        if (error == SSL_ERROR_WANT_READ)
                return 0;
        if (error == SSL_ERROR_ZERO_RETURN)
                return 1;
        reason = tls_reason();
        if (!t->error)
                t->error = strdup(reason[0] ? reason : "the connection broke");
        return -EPROTO;
}

/* The transport. */

static ssize_t tell_broken(const struct tls_transport *t) {
        return t->broken > 0 ? 0 : t->broken;
}

static ssize_t tls_read(struct transport *transport, void *data, size_t size) {
        struct tls_transport *t = tls_of(transport);
        size_t n = 0;
        int r;

        if (t->broken)
                return tell_broken(t);
        if (!size)
                return -EAGAIN;
        /* What has come is wanted whole, together with what OpenSSL has of a record's beginning. */
        r = SSL_has_pending(t->ssl) && SSL_pending(t->ssl)
                ? 0
                : tls_transport_fill(t, size > 2 * RECORD_ROOM ? size - RECORD_ROOM : RECORD_ROOM);
        if (r < 0)
                return r;
        ERR_clear_error();
        t->wrote = false;
        while (n < size) {
                size_t k = 0;

                r = SSL_read_ex(t->ssl, (uint8_t *)data + n, size - n, &k);
                if (r == 1) {
                        n += k;
                        continue;
                }
                t->broken = tls_transport_fate(t, r);
                break;
        }
        t->n_received += n;
        if (t->wrote) {
                /* New keys that the peer wants again and again, or refusals of what it may not do. */
                if (++t->n_unasked > 16 + t->n_received / 4096 && !t->broken) {
                        t->broken = -EPROTO;
                        if (!t->error)
                                t->error = strdup("too many requests for a renegotiation or new keys");
                }
                r = tls_transport_flush(t);
                if (r < 0 && !t->broken)
                        t->broken = r;
        }
        r = tls_transport_keep(t);
        if (r < 0 && !t->broken)
                t->broken = r;
        if (n)
                return (ssize_t)n;
        return t->broken ? tell_broken(t) : -EAGAIN;
}

/* The bytes of one record, gathered where they are in small pieces; 0: no more. */
static size_t gather(const struct iovec **iov, size_t *n_iov, size_t *offset, const void **ret) {
        size_t n = 0;

        while (*n_iov) {
                const uint8_t *p = (const uint8_t *)(*iov)->iov_base + *offset;
                size_t left = (*iov)->iov_len - *offset, k = min_of(left, RECORD - n);

                if (!n && (left >= RECORD || *n_iov == 1)) {
                        *ret = p;
                        n = k;
                } else if (k) {
                        memcpy(content + n, p, k);
                        *ret = content;
                        n += k;
                }
                *offset += k;
                if (*offset == (*iov)->iov_len) {
                        ++*iov;
                        --*n_iov;
                        *offset = 0;
                }
                if (n == RECORD || (n && *ret != content))
                        break;
        }
        return n;
}

static ssize_t tls_write(struct transport *transport, const struct iovec *iov, size_t n_iov) {
        struct tls_transport *t = tls_of(transport);
        size_t taken = 0, offset = 0, staged = 0, n;
        const void *data = NULL;
        int r;

        if (t->broken < 0)
                return t->broken;
        if (t->n_out) {
                r = tls_transport_flush(t);
                if (r <= 0)
                        return r < 0 ? r : -EAGAIN;
        }
        /* The beginning has gone already. */
        while (t->paid && n_iov) {
                n = min_of(t->paid, iov->iov_len - offset);
                t->paid -= n;
                taken += n;
                offset += n;
                if (offset == iov->iov_len) {
                        iov++;
                        n_iov--;
                        offset = 0;
                }
        }
        ERR_clear_error();
        while ((n = gather(&iov, &n_iov, &offset, &data))) {
                size_t k = 0;

                r = SSL_write_ex(t->ssl, data, n, &k);
                if (r != 1 || k != n) { /* the BIO takes all, always */
                        r = r != 1 ? tls_transport_fate(t, r) : 0;
                        t->broken = r < 0 ? r : -EPROTO;
                        stage.n = 0;
                        return t->broken;
                }
                staged += n;
                if (n_iov && stage.n <= sizeof(stage.bytes) - RECORD_ROOM)
                        continue;
                r = tls_transport_flush(t);
                if (r < 0) {
                        t->broken = r;
                        return r;
                }
                if (r == 0) {
                        t->owed = staged;
                        break;
                }
                taken += staged;
                staged = 0;
        }
        return taken ? (ssize_t)taken : t->owed ? -EAGAIN : 0;
}

static void tls_end(struct transport *transport) {
        struct tls_transport *t = tls_of(transport);

        if (!t->shaking && t->broken >= 0) {
                (void)SSL_shutdown(t->ssl);
                (void)tls_transport_flush(t);
                ERR_clear_error();
        }
        stage.n = 0;
        (void)shutdown(transport->fd, SHUT_WR);
}

static bool tls_pending(const struct transport *transport) {
        const struct tls_transport *t = tls_of(transport);

        return t->broken || t->n_in || SSL_pending(t->ssl);
}

static void shaking_free(struct tls_shaking *s) {
        if (!s)
                return;
        tls_server_unref(s->policy);
        tls_client_unref(s->client);
        error_done(&s->err);
        free(s);
}

static void tls_free(struct transport *transport) {
        struct tls_transport *t = tls_of(transport);

        SSL_free(t->ssl);
        shaking_free(t->shaking);
        tls_identity_unref(t->identity);
        close(transport->fd);
        free(t->in);
        free(t->out);
        free(t->error);
        free(t);
}

const struct transport_ops tls_transport_ops = {
        .read = tls_read,
        .write = tls_write,
        .end = tls_end,
        .pending = tls_pending,
        .free = tls_free,
};

/* What others may know. */

const struct tls_peer *tls_transport_peer(const struct transport *transport) {
        const struct tls_transport *t = tls_of(transport);

        return transport->ops == &tls_transport_ops && t->identity ? tls_identity_peer(t->identity) : NULL;
}

const char *tls_transport_error(const struct transport *transport) {
        return transport->ops == &tls_transport_ops ? tls_of(transport)->error : NULL;
}

const char *tls_transport_protocol(const struct transport *transport) {
        const unsigned char *name = NULL;
        unsigned n = 0;

        if (transport->ops != &tls_transport_ops || !tls_of(transport)->ssl)
                return "";
        SSL_get0_alpn_selected(tls_of(transport)->ssl, &name, &n);
        return n == 2 && memcmp(name, "h2", 2) == 0          ? "h2"
                : n == 8 && memcmp(name, "http/1.1", 8) == 0 ? "http/1.1"
                                                             : "";
}

int tls_transport_check(struct transport *transport, struct tls_server *now, struct error *reterr) {
        const struct tls_transport *t = tls_of(transport);

        if (transport->ops != &tls_transport_ops || !t->identity)
                return 0;
        return tls_identity_check(t->identity, now, reterr);
}
