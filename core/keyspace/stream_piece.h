#pragma once

/* Making pieces of a stream (stream.h), for whoever makes records that no datastore has (an import) and for the stream itself. */

#include "keyspace/stream.h"

struct stream_piece *stream_piece_new(void);
/* Copies the record, key and value. 0, -ENOMEM. */
int stream_piece_add(struct stream_piece *piece, const struct stoke_record *record);
/* Appends the records of another, which is the piece's from then on. 0; -ENOMEM: nothing has changed. */
int stream_piece_join(struct stream_piece *piece, struct stream_piece *other);
