#include "recording.h"

#include <algorithm>
#include <stdexcept>

namespace linnet {

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void check_cache(const Recording& r, const Cache* cache) {
  for (const auto& [layer, kv] : r.attended) {
    require(cache && layer < cache->layers.size(), "no cache for a layer that attends");
    const Cache::Layer& l = cache->layers[layer];
    require(l.kv_heads == kv.kv_heads && l.head_dim == kv.head_dim && l.value_dim == kv.value_dim, "a cache of another shape");
  }
}

void check_batch(const Recording& r, const StepView& s, const std::vector<int64_t>& pages) {
  require(s.groups == (int64_t)pages.size(), "page tables of another number of groups");
  require(s.count <= r.most_rows, "more rows than a constant has");
  for (int64_t i = 0; i < s.count; i++) {
    require(s.tokens[i] >= 0 && s.tokens[i] < r.most_tokens && s.previous[i] < r.most_tokens, "a token outside the embedding");
    require(s.sequence[i] >= 0 && s.sequence[i] < s.sequences, "a sequence without a row in the page table");
    require(s.positions[i] >= 0 && s.positions[i] / kPage < s.widest && s.positions[i] < r.most_positions,
            "a position past the page table");
    if (i + 1 < s.count && s.sequence[i + 1] == s.sequence[i]) {
      require(s.positions[i + 1] > s.positions[i], "positions of a sequence that do not ascend");
      continue;
    }
    // Attention reads every page up to the last position, or to the end of a prompt that sees both ways: all of them must exist.
    int64_t last = std::max<int64_t>(s.positions[i], r.bidirectional ? s.prompt_lengths[s.sequence[i]] - 2 : 0) / kPage;
    require(last < s.widest, "a prompt past the page table");
    for (int64_t group = 0; group < s.groups; group++) {
      const int32_t* entries = s.pages(group, s.sequence[i]);
      for (int64_t page = 0; page <= last; page++) {
        require(entries[page] >= 0 && entries[page] < pages[(size_t)group], "a page outside the cache");
      }
    }
  }
  for (int64_t i = 0; i < s.wanted; i++) require(s.rows[i] >= 0 && s.rows[i] < s.count, "a wanted row that is not there");
}

}  // namespace linnet
