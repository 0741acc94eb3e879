/*
 * Small texts from definitions, settings, command lines and file names: sizes, durations, UUIDs, base64, names, addresses. Input is the
 * text, up to its first NUL. What is taken and printed again must be taken as the same value; a name that is valid is safe in a path.
 */

#include "base/yaml_node.h"
#include "fleet/definition.h"
#include "fleet/definition_file.h"
#include "fleet/quantity.h"
#include "fleet/uuid.h"
#include "fuzz.h"

static void try_quantities(const char *text) {
        uint64_t value, back;
        char out[64], size_text[32];

        if (size_parse(text, &value) == 0) {
                check(value <= INT64_MAX);
                size_print(value, size_text);
                check(size_parse(size_text, &back) == 0 && back == value);
        }
        if (duration_parse(text, &value) == 0) {
                check(value <= INT64_MAX);
                duration_print(value, out);
                check(duration_parse(out, &back) == 0);
                check(back == value);
        }
}

static void try_uuid(const char *text) {
        uint8_t uuid[16], back[16];
        char out[UUID_TEXT_SIZE];

        if (uuid_parse(text, uuid) < 0)
                return;
        uuid_print(uuid, out);
        check(strcasecmp(out, text) == 0);
        check(uuid_parse(out, back) == 0 && memcmp(uuid, back, sizeof(uuid)) == 0);
}

static void try_base64(const char *text) {
        uint8_t *data = NULL;
        size_t size = 0;

        if (base64_decode(text, &data, &size) < 0) {
                check(!data);
                return;
        }
        check(data && size <= strlen(text) / 4 * 3 && data[size] == '\0');
        free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        char *ended = strndup((const char *)data, size);

        check(ended);
        try_quantities(ended);
        try_uuid(ended);
        try_base64(ended);
        if (tenant_name_is_valid(ended)) {
                check(strlen(ended) <= 63 && !strchr(ended, '/') && !strchr(ended, '.'));
                check(datastore_name_is_valid(ended));
        }
        if (datastore_name_is_valid(ended))
                check(strlen(ended) <= 253 && !strchr(ended, '/') && !strstr(ended, ".."));
        if (tcp_address_is_loopback(ended))
                check(strncmp(ended, "127.", 4) == 0 || strncmp(ended, "[::1]:", 6) == 0);
        (void)yaml_text_is_ambiguous(ended);
        free(ended);
        return 0;
}
