#pragma once

/*
 * What the files that read stokehold.yaml share. Only inside fleet/, on the thread that reads.
 */

#include "fleet/definition_node.h"
#include "fleet/settings.h"

/* A path, absolute or (where there is a --root) under it, in the place of *target. */
int settings_read_path(
        const struct node_reader *reader, const struct node_at *at, const char *key, const char *root, char **target);

/* settings_tls.c */
int settings_read_tls(const struct node_reader *reader, const struct node_at *top, struct settings *s);
void settings_tls_done(struct settings_tls *tls);
/* What differs and cannot be changed while the daemon runs. */
bool settings_tls_same_listener(const struct settings_tls *a, const struct settings_tls *b);
/* Takes over what can be changed. */
void settings_tls_adopt(struct settings_tls *running, struct settings_tls *new);
