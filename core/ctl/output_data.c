/*
 * Messages as JSON and as YAML, by their descriptors alone, so that a new field of the protocol appears by itself. Belongs to stokectl's
 * only thread. Knows nothing of single commands.
 */

#include <ctype.h>
#include <string.h>

#include "ctl/output.h"

/* commit_p50_ms becomes commitP50Ms. */
static char *camel_case(const char *name) {
        char *text = strdup(name), *to = text;

        check(text);
        for (const char *from = name; *from; from++) {
                if (*from == '_' && from[1])
                        *to++ = (char)toupper((unsigned char)*++from);
                else
                        *to++ = *from;
        }
        *to = 0;
        return text;
}

static json_t *json_of_text(const char *text) {
        /* The daemon sends UTF-8; a key or path that is none must not make the whole answer vanish. */
        json_t *value = json_string(text ? text : "");

        return value ? value : json_string("(not UTF-8)");
}

static json_t *json_of_value(const ProtobufCFieldDescriptor *field, const void *p) {
        switch (field->type) {
        case PROTOBUF_C_TYPE_INT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_SFIXED32:
        case PROTOBUF_C_TYPE_ENUM:
                return json_integer(*(const int32_t *)p);
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_FIXED32:
                return json_integer(*(const uint32_t *)p);
        case PROTOBUF_C_TYPE_INT64:
        case PROTOBUF_C_TYPE_SINT64:
        case PROTOBUF_C_TYPE_SFIXED64:
                return json_integer(*(const int64_t *)p);
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_FIXED64:
                return json_integer((json_int_t) * (const uint64_t *)p);
        case PROTOBUF_C_TYPE_FLOAT:
                return json_real((double)*(const float *)p);
        case PROTOBUF_C_TYPE_DOUBLE:
                return json_real(*(const double *)p);
        case PROTOBUF_C_TYPE_BOOL:
                return json_boolean(*(const protobuf_c_boolean *)p);
        case PROTOBUF_C_TYPE_STRING:
                return json_of_text(*(char *const *)p);
        case PROTOBUF_C_TYPE_BYTES:
                return json_stringn(
                        (const char *)((const ProtobufCBinaryData *)p)->data, ((const ProtobufCBinaryData *)p)->len);
        case PROTOBUF_C_TYPE_MESSAGE:
                return *(ProtobufCMessage *const *)p ? output_json_of(*(ProtobufCMessage *const *)p) : json_null();
        }
        return json_null();
}

static size_t element_size(const ProtobufCFieldDescriptor *field) {
        switch (field->type) {
        case PROTOBUF_C_TYPE_INT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_SFIXED32:
        case PROTOBUF_C_TYPE_ENUM:
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_FIXED32:
        case PROTOBUF_C_TYPE_FLOAT:
                return 4;
        case PROTOBUF_C_TYPE_BOOL:
                return sizeof(protobuf_c_boolean);
        case PROTOBUF_C_TYPE_BYTES:
                return sizeof(ProtobufCBinaryData);
        case PROTOBUF_C_TYPE_STRING:
        case PROTOBUF_C_TYPE_MESSAGE:
                return sizeof(void *);
        default:
                return 8;
        }
}

/* A map<string, string> is a repeated message called …Entry of key and value; protobuf-c knows no maps. */
static bool is_map(const ProtobufCFieldDescriptor *field) {
        const ProtobufCMessageDescriptor *d;
        size_t n;

        if (field->label != PROTOBUF_C_LABEL_REPEATED || field->type != PROTOBUF_C_TYPE_MESSAGE)
                return false;
        d = field->descriptor;
        n = strlen(d->short_name);
        return d->n_fields == 2 && n > 5 && strcmp(d->short_name + n - 5, "Entry") == 0 &&
                strcmp(d->fields[0].name, "key") == 0 && d->fields[0].type == PROTOBUF_C_TYPE_STRING &&
                strcmp(d->fields[1].name, "value") == 0;
}

static json_t *json_of_repeated(const ProtobufCFieldDescriptor *field, const uint8_t *base) {
        size_t n = *(const size_t *)(const void *)(base + field->quantifier_offset), size = element_size(field);
        const uint8_t *items = *(const uint8_t *const *)(const void *)(base + field->offset);
        bool map = is_map(field);
        json_t *all = map ? json_object() : json_array();

        check(all);
        for (size_t i = 0; i < n; i++) {
                const void *item = items + i * size;

                if (map) {
                        const uint8_t *entry = *(const uint8_t *const *)item;
                        const ProtobufCMessageDescriptor *d = field->descriptor;
                        const char *key = *(char *const *)(const void *)(entry + d->fields[0].offset);

                        json_object_set_new(
                                all, key ? key : "", json_of_value(&d->fields[1], entry + d->fields[1].offset));
                } else {
                        json_array_append_new(all, json_of_value(field, item));
                }
        }
        return all;
}

json_t *output_json_of(const ProtobufCMessage *message) {
        const ProtobufCMessageDescriptor *d = message->descriptor;
        const uint8_t *base = (const uint8_t *)message;
        json_t *object = json_object();

        check(object);
        for (unsigned i = 0; i < d->n_fields; i++) {
                const ProtobufCFieldDescriptor *field = &d->fields[i];
                cleanup(freep) char *name = camel_case(field->name);

                if (strcmp(name, "manifest") == 0)
                        continue;
                json_object_set_new(object, name,
                        field->label == PROTOBUF_C_LABEL_REPEATED ? json_of_repeated(field, base)
                                                                  : json_of_value(field, base + field->offset));
        }
        return object;
}

void output_json(json_t *value) {
        json_dumpf(value, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        putchar('\n');
        json_decref(value);
}

/* Plain only where no reader of YAML 1.1 or 1.2 can take it for anything else. */
static bool yaml_plain(const char *text) {
        static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};

        if (!isalpha((unsigned char)*text) && *text != '/')
                return false;
        for (const char *p = text; *p; p++) {
                bool colon = *p == ':' && p[1] && p[1] != ' ';

                if (!isalnum((unsigned char)*p) && !strchr("-_./", *p) && !colon &&
                        !(*p == ' ' && p[1] && p[1] != ' ' && p[1] != '#'))
                        return false;
        }
        for (size_t i = 0; i < n_elements(words); i++)
                if (strcasecmp(text, words[i]) == 0)
                        return false;
        return true;
}

static void yaml_text(const char *text) {
        /* A JSON string is a double-quoted scalar of YAML. */
        json_t *value;

        if (yaml_plain(text)) {
                fputs(text, stdout);
                return;
        }
        value = json_string(text);
        json_dumpf(value, stdout, JSON_ENCODE_ANY);
        json_decref(value);
}

static void yaml_indent(int depth) {
        for (int i = 0; i < depth; i++)
                fputs("  ", stdout);
}

static bool yaml_is_block(json_t *value) {
        return (json_is_object(value) && json_object_size(value)) || (json_is_array(value) && json_array_size(value));
}

/* The cursor stands where the value begins: at the start of a line for a block (first: behind "- "), behind "key: " for others. */
static void yaml_value(json_t *value, int depth, bool first) {
        const char *key;
        json_t *item;
        size_t i;

        if (json_is_object(value) && json_object_size(value)) {
                json_object_foreach(value, key, item) {
                        if (!first)
                                yaml_indent(depth);
                        first = false;
                        yaml_text(key);
                        putchar(':');
                        if (yaml_is_block(item)) {
                                putchar('\n');
                                yaml_value(item, json_is_array(item) ? depth : depth + 1, false);
                        } else {
                                putchar(' ');
                                yaml_value(item, depth, false);
                        }
                }
        } else if (json_is_array(value) && json_array_size(value)) {
                json_array_foreach(value, i, item) {
                        if (!first)
                                yaml_indent(depth);
                        first = false;
                        fputs("- ", stdout);
                        yaml_value(item, depth + 1, true);
                }
        } else {
                if (json_is_string(value))
                        yaml_text(json_string_value(value));
                else
                        json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
                putchar('\n');
        }
}

void output_yaml(json_t *value) {
        yaml_value(value, 0, false);
        json_decref(value);
}

bool output_message(enum ctl_format format, const ProtobufCMessage *message) {
        if (format == FORMAT_JSON)
                output_json(output_json_of(message));
        else if (format == FORMAT_YAML)
                output_yaml(output_json_of(message));
        return format != FORMAT_TABLE;
}

bool output_manifest(enum ctl_format format, const ProtobufCMessage *message, const char *manifest) {
        if (format != FORMAT_YAML)
                return output_message(format, message);
        output_document(manifest);
        return true;
}
