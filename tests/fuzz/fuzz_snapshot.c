/*
 * A file that says it is an etcd snapshot. Input is the file; its checksums are mended, so that mutations get behind them. Whatever is in it, what is
 * read are records that a log may have, in order, and no more bytes than the file has.
 */

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "keyspace/record.h"
#include "rpc/digest.h"
#include "snapshot/bolt.h"
#include "snapshot/read.h"

static void mend(uint8_t *data, size_t size) {
        for (size_t at = 0; at + BOLT_PAGE_HEADER + BOLT_META_SIZE <= size && at <= BOLT_PAGE_SIZE;
                at += BOLT_PAGE_SIZE)
                le_put64(data + at + BOLT_PAGE_HEADER + BOLT_META_SUMMED, bolt_meta_sum(data + at + BOLT_PAGE_HEADER));
        if (size % SNAPSHOT_SECTOR == SNAPSHOT_CHECKSUM) {
                struct digest *digest;

                check(digest_new(&digest) == 0);
                digest_add(digest, data, size - SNAPSHOT_CHECKSUM);
                digest_finish(digest, data + size - SNAPSHOT_CHECKSUM);
                digest_free(digest);
        }
}

static void read_all(int fd, size_t size) {
        cleanup(snapshot_reader_freep) struct snapshot_reader *reader = NULL;
        cleanup(error_done) struct error err = {};
        struct stoke_origin origin = {.batch = 1};
        struct snapshot_facts facts;
        struct stoke_record record;
        size_t bytes = 0;
        uint64_t seq = 0;
        int64_t revision = 0;
        int r = snapshot_reader_new(fd, &origin, &reader, &err);

        while (r >= 0 && (r = snapshot_reader_next(reader, &record, &err)) > 0) {
                bytes += record.key_size + record.value_size;
                check(bytes <= size);
                check(record.seq == ++seq);
                check(record.revision >= revision && record.revision > 0);
                revision = record.revision;
                check(record.hash == record_hash(&record));
                check(record.kind == RECORD_CREATED ? seq == 1 : seq > 1);
                if (record.kind == RECORD_PUT)
                        check(record.key_size && record.version > 0 && record.create_revision <= revision);
        }
        check(r == 0 || err.text);
        if (r == 0) {
                snapshot_reader_get(reader, &facts);
                check(facts.revision >= revision && facts.revision >= facts.compacted);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        uint8_t *copy = fuzz_copy(data, size);
        int fd = memfd_create("snapshot", MFD_CLOEXEC);

        check(fd >= 0);
        mend(copy, size);
        check(write(fd, copy, size) == (ssize_t)size);
        read_all(fd, size);
        close(fd);
        free(copy);
        return 0;
}
