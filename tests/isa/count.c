// A plugin for qemu's user mode: counts the instructions that a program executes. With the argument out=FILE it writes
// a line for each block of code, address and instructions executed; else it prints the sum.
//
// Declares what it uses of qemu's plugin interface, version 1 (qemu: include/qemu/qemu-plugin.h), because Debian's
// packages don't carry the header.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
typedef void (*tb_translated)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*ended)(qemu_plugin_id_t, void *);
enum inline_op { ADD_U64 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_translated);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum inline_op, void *, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, ended, void *);
void qemu_plugin_outs(const char *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

struct block {
    uint64_t address;
    uint64_t n_executed;
    struct block *next;
};

static struct block *blocks;
static const char *out_path;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *code) {
    (void)id;
    struct block *block = malloc(sizeof *block);
    if (!block) {
        abort();
    }
    *block = (struct block){qemu_plugin_tb_vaddr(code), 0, blocks};
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(code, ADD_U64, &block->n_executed, qemu_plugin_tb_n_insns(code));
}

static void at_end(qemu_plugin_id_t id, void *data) {
    (void)id;
    (void)data;
    FILE *out = out_path ? fopen(out_path, "w") : NULL;
    uint64_t sum = 0;
    for (const struct block *block = blocks; block; block = block->next) {
        sum += block->n_executed;
        if (out) {
            fprintf(out, "%" PRIx64 " %" PRIu64 "\n", block->address, block->n_executed);
        }
    }
    if (out) {
        fclose(out);
    } else {
        char line[64];
        snprintf(line, sizeof line, "instructions: %" PRIu64 "\n", sum);
        qemu_plugin_outs(line);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc,
                                                               char **argv) {
    (void)info;
    if (argc > 0 && strncmp(argv[0], "out=", 4) == 0) {
        out_path = strdup(argv[0] + 4);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, at_end, NULL);
    return 0;
}
