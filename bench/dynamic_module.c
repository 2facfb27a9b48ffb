// A dynamic module of Envoy 1.40 that looks hosts up in a hash table: what native code of one's own costs a request.
//
// Envoy's SDKs are in no registry, so the few parts of its C interface (`abi.h`, version 0.1) that this needs are
// declared here. The configuration is the number of rules; `rules.rs` says what they are.

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  const char *at;
  size_t length;
} Text;

enum { CONTINUE = 0, STOP = 1 };
enum { REQUEST_HEADERS = 0 };

bool envoy_dynamic_module_callback_http_get_header(void *filter, int kind, Text name, Text *value, size_t index,
                                                   size_t *count);
void envoy_dynamic_module_callback_http_send_response(void *filter, uint32_t status, void *headers, size_t count,
                                                      Text body, Text details);

static const char PREFIX[] = "/v1/";

// A host of a rule; an empty one is free.
typedef struct {
  char name[32];
  size_t length;
} Host;

// Open addressing, at most half full.
typedef struct {
  size_t mask;
  Host *hosts;
} Table;

static Host *place(const Table *table, Text name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < name.length; i++) hash = (hash ^ (unsigned char)name.at[i]) * 0x100000001b3;
  for (size_t i = hash & table->mask;; i = (i + 1) & table->mask) {
    Host *host = &table->hosts[i];
    if (host->length == 0 || (host->length == name.length && memcmp(host->name, name.at, name.length) == 0)) {
      return host;
    }
  }
}

const char *envoy_dynamic_module_on_program_init(void) { return "v0.1.0"; }

const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, Text name, Text configuration) {
  char digits[16] = {0};
  if (configuration.length >= sizeof digits) return NULL;
  memcpy(digits, configuration.at, configuration.length);
  size_t rules = strtoul(digits, NULL, 10), size = 2;
  while (size < rules * 2) size *= 2;
  Table *table = malloc(sizeof *table);
  *table = (Table){size - 1, calloc(size, sizeof(Host))};
  for (size_t rule = 0; rule < rules; rule++) {
    Host host;
    host.length = (size_t)snprintf(host.name, sizeof host.name, "h%zu.bench.test", rule);
    *place(table, (Text){host.name, host.length}) = host;
  }
  return table;
}

void envoy_dynamic_module_on_http_filter_config_destroy(const void *configuration) {
  free(((Table *)configuration)->hosts);
  free((void *)configuration);
}

const void *envoy_dynamic_module_on_http_filter_new(const void *configuration, void *filter) { return configuration; }

int envoy_dynamic_module_on_http_filter_request_headers(void *filter, const void *table, bool end) {
  Text host = {0}, path = {0};
  envoy_dynamic_module_callback_http_get_header(filter, REQUEST_HEADERS, (Text){":authority", 10}, &host, 0, NULL);
  envoy_dynamic_module_callback_http_get_header(filter, REQUEST_HEADERS, (Text){":path", 5}, &path, 0, NULL);
  size_t prefix = sizeof PREFIX - 1;
  if (place(table, host)->length > 0 && path.length >= prefix && memcmp(path.at, PREFIX, prefix) == 0) return CONTINUE;
  envoy_dynamic_module_callback_http_send_response(filter, 403, NULL, 0, (Text){"denied", 6}, (Text){0});
  return STOP;
}

// Envoy asks for these, too.
#define NOTHING(event) \
  int envoy_dynamic_module_on_http_filter_##event(void *filter, const void *table) { return CONTINUE; }

NOTHING(request_body)
NOTHING(request_trailers)
NOTHING(response_headers)
NOTHING(response_body)
NOTHING(response_trailers)
NOTHING(stream_complete)
NOTHING(destroy)
NOTHING(http_callout_done)
NOTHING(http_stream_headers)
NOTHING(http_stream_data)
NOTHING(http_stream_trailers)
NOTHING(http_stream_complete)
NOTHING(http_stream_reset)
NOTHING(scheduled)
NOTHING(downstream_above_write_buffer_high_watermark)
NOTHING(downstream_below_write_buffer_low_watermark)
