/*
 * A small reader of ELF files: program headers, the dynamic section, the dynamic symbol table. Every offset and size in the file is
 * held against the file's size before it is used. The number of symbols is that of the hash table, as the dynamic linker
 * takes it; where the hash table is the newer kind, its chains are followed to their end.
 */
#include "driver/elf.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (INT64_C(1) << 30)
#define TABLE_MAX (1u << 20) /* symbols and hash buckets: ours have a handful */

struct image {
        const uint8_t *data;
        uint64_t size;
        uint64_t headers; /* offset of the program headers */
        unsigned n_headers;
};

/* size bytes at an offset of the file; false: not within it. The copy is for alignment. */
static bool take(const struct image *image, uint64_t offset, void *ret, uint64_t size) {
        if (offset > image->size || size > image->size - offset)
                return false;
        memcpy(ret, image->data + offset, size);
        return true;
}

static bool header_at(const struct image *image, unsigned i, ElfW(Phdr) * ret) {
        return take(image, image->headers + (uint64_t)i * sizeof(*ret), ret, sizeof(*ret));
}

/* Where in the file lies what is loaded at this address? */
static bool offset_of(const struct image *image, uint64_t address, uint64_t *ret) {
        for (unsigned i = 0; i < image->n_headers; i++) {
                ElfW(Phdr) h;

                if (header_at(image, i, &h) && h.p_type == PT_LOAD && address >= h.p_vaddr &&
                        address - h.p_vaddr < h.p_filesz && h.p_offset <= image->size) {
                        *ret = h.p_offset + (address - h.p_vaddr);
                        return *ret < image->size;
                }
        }
        return false;
}

/* The number of symbols, from the newer hash table: the greatest index that any chain ends at. */
static bool count_gnu(const struct image *image, uint64_t at, uint32_t *ret) {
        uint32_t head[4], last = 0, chain; /* buckets, the first symbol, words of the filter, shift */
        uint64_t buckets;

        if (!take(image, at, head, sizeof(head)) || head[0] > TABLE_MAX || head[2] > TABLE_MAX)
                return false;
        buckets = at + sizeof(head) + (uint64_t)head[2] * sizeof(ElfW(Addr));
        for (uint32_t i = 0; i < head[0]; i++) {
                uint32_t first;

                if (!take(image, buckets + (uint64_t)i * 4, &first, 4))
                        return false;
                if (first > last)
                        last = first;
        }
        if (last < head[1]) {
                *ret = head[1]; /* none is defined */
                return true;
        }
        for (;; last++) {
                if (last > TABLE_MAX || !take(image, buckets + ((uint64_t)head[0] + (last - head[1])) * 4, &chain, 4))
                        return false;
                if (chain & 1)
                        break;
        }
        *ret = last + 1;
        return true;
}

static int find_symbol(const struct image *image, const char *name, struct error *reterr) {
        uint64_t dynamic = 0, dynamic_size = 0, symbols = 0, strings = 0, strings_size = 0, hash = 0, gnu = 0;
        size_t size = strlen(name) + 1;
        uint32_t n = 0, head[2];
        bool good;

        for (unsigned i = 0; i < image->n_headers; i++) {
                ElfW(Phdr) h;

                if (!header_at(image, i, &h))
                        return error_set(reterr, -ENOEXEC, "its program headers are cut off");
                /* The linker would map what is not there, and die of it. */
                if (h.p_type == PT_LOAD && (h.p_offset > image->size || h.p_filesz > image->size - h.p_offset))
                        return error_set(reterr, -ENOEXEC, "it is cut off");
                if (h.p_type == PT_DYNAMIC) {
                        dynamic = h.p_offset;
                        dynamic_size = h.p_filesz;
                }
        }
        if (dynamic == 0 || dynamic > image->size || dynamic_size > image->size - dynamic)
                return error_set(reterr, -ENOEXEC, "it has no whole dynamic section");
        for (uint64_t at = 0; at + sizeof(ElfW(Dyn)) <= dynamic_size; at += sizeof(ElfW(Dyn))) {
                ElfW(Dyn) d;

                if (!take(image, dynamic + at, &d, sizeof(d)) || d.d_tag == DT_NULL)
                        break;
                if (d.d_tag == DT_SYMTAB)
                        symbols = d.d_un.d_ptr;
                else if (d.d_tag == DT_STRTAB)
                        strings = d.d_un.d_ptr;
                else if (d.d_tag == DT_STRSZ)
                        strings_size = d.d_un.d_val;
                else if (d.d_tag == DT_HASH)
                        hash = d.d_un.d_ptr;
                else if (d.d_tag == DT_GNU_HASH)
                        gnu = d.d_un.d_ptr;
        }
        good = symbols && strings && offset_of(image, symbols, &symbols) && offset_of(image, strings, &strings) &&
                strings_size <= image->size - strings;
        if (good && gnu)
                good = offset_of(image, gnu, &gnu) && count_gnu(image, gnu, &n);
        else if (good && hash) {
                good = offset_of(image, hash, &hash) && take(image, hash, head, sizeof(head));
                n = good ? head[1] : 0;
        }
        if (!good || n > TABLE_MAX)
                return error_set(reterr, -ENOEXEC, "its symbol table is damaged");
        for (uint32_t i = 0; i < n; i++) {
                ElfW(Sym) s;

                if (!take(image, symbols + (uint64_t)i * sizeof(s), &s, sizeof(s)))
                        return error_set(reterr, -ENOEXEC, "its symbol table is cut off");
                if (s.st_shndx == SHN_UNDEF || ELF64_ST_BIND(s.st_info) == STB_LOCAL ||
                        ELF64_ST_TYPE(s.st_info) != STT_OBJECT || s.st_name > strings_size ||
                        size > strings_size - s.st_name)
                        continue;
                if (memcmp(image->data + strings + s.st_name, name, size) == 0)
                        return 0;
        }
        return error_set(reterr, -ENOENT, "no symbol %s", name);
}

int elf_check(int fd, const char *symbol, struct error *reterr) {
        struct image image = {};
        ElfW(Ehdr) header, own;
        struct stat st;
        ssize_t n = -1;
        void *map;
        int self, r;

        if (fstat(fd, &st) < 0)
                return error_set(reterr, -errno, "%s", strerror(errno));
        if (st.st_size < (off_t)sizeof(header))
                return error_set(reterr, -ENOEXEC, "not a shared object");
        if (st.st_size > FILE_MAX)
                return error_set(reterr, -ENOEXEC, "too large for a plugin");
        image.size = (uint64_t)st.st_size;
        map = mmap(NULL, image.size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED)
                return error_set(reterr, -errno, "cannot read it: %s", strerror(errno));
        image.data = map;
        memcpy(&header, map, sizeof(header));
        self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        if (self >= 0) {
                n = pread(self, &own, sizeof(own), 0);
                close(self);
        }
        if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
                r = error_set(reterr, -ENOEXEC, "not a shared object");
        else if (header.e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32) ||
                (n == (ssize_t)sizeof(own) &&
                        (header.e_ident[EI_DATA] != own.e_ident[EI_DATA] || header.e_machine != own.e_machine)))
                r = error_set(reterr, -ENOEXEC, "a shared object for another machine");
        else if (header.e_type != ET_DYN || header.e_phentsize != sizeof(ElfW(Phdr)))
                r = error_set(reterr, -ENOEXEC, "not a shared object");
        else {
                image.headers = header.e_phoff;
                image.n_headers = header.e_phnum;
                r = image.headers > image.size ? error_set(reterr, -ENOEXEC, "its program headers are cut off")
                                               : find_symbol(&image, symbol, reterr);
        }
        munmap(map, image.size);
        return r;
}
