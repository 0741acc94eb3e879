#include "fleet/client_name.h"

#include <ctype.h>
#include <string.h>

#include "fleet/credential_name.h"

#define COMMON_NAME_MAX 64 /* RFC 5280: ub-common-name */
#define NAME_MAX_BYTES 1024

/* Letters, digits, dashes and underscores with dots between, in lower case, in which certificates are compared. */
static bool is_dns_name(const char *s) {
        size_t label = 0;

        if (strlen(s) > 253)
                return false;
        for (; *s; s++) {
                if (*s == '.') {
                        if (label == 0 || !s[1])
                                return false;
                        label = 0;
                        continue;
                }
                if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '-' || *s == '_') || ++label > 63)
                        return false;
        }
        return label > 0;
}

/* A scheme, and something behind it. */
static bool is_uri(const char *s) {
        const char *p = s;

        if (!isalpha((unsigned char)*p))
                return false;
        while (isalnum((unsigned char)*p) || *p == '+' || *p == '-' || *p == '.')
                p++;
        if (*p != ':' || !p[1])
                return false;
        for (; *p; p++)
                if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
                        return false;
        return true;
}

static bool is_common_name(const char *s) {
        if (!*s || strlen(s) > COMMON_NAME_MAX)
                return false;
        for (; *s; s++)
                if ((unsigned char)*s < ' ' || *s == 0x7f)
                        return false;
        return true;
}

int client_name_parse(const char *text, char **ret, struct error *reterr) {
        static const struct {
                const char *prefix, *must;
                bool (*is_good)(const char *s);
        } kinds[] = {
                {"CN:", "1 to 64 bytes without control characters", is_common_name},
                {"URI:", "a URI with a scheme, such as spiffe://example/berlin", is_uri},
                {"DNS:", "a DNS name in lower case, without a wildcard", is_dns_name},
        };
        const char *prefix = "";
        size_t kind = 0;

        if (!strchr(text, ':'))
                prefix = "CN:";
        else {
                while (kind < n_elements(kinds) && strncmp(text, kinds[kind].prefix, strlen(kinds[kind].prefix)) != 0)
                        kind++;
                if (kind == n_elements(kinds))
                        return error_set(reterr, -EINVAL,
                                "\"%.80s\" must be CN:NAME, URI:URI, DNS:NAME, or a common name without \":\" in it",
                                text);
        }
        if (strlen(text) > NAME_MAX_BYTES || !kinds[kind].is_good(text + (*prefix ? 0 : strlen(kinds[kind].prefix))))
                return error_set(reterr, -EINVAL, "\"%.80s\" must be %s%s", text, kinds[kind].prefix, kinds[kind].must);
        if (strncmp(text, "URI:" CREDENTIAL_SCHEME, strlen("URI:" CREDENTIAL_SCHEME)) == 0)
                return error_set(reterr, -EINVAL,
                        "\"%.80s\": " CREDENTIAL_SCHEME " is kept for certificates that the daemon issues", text);
        if (asprintf(ret, "%s%s", prefix, text) < 0)
                return -ENOMEM;
        return 0;
}
