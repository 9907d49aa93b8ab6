#include "recording.h"

#include <algorithm>
#include <stdexcept>

namespace linnet {

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void check_cache(const Recording& r, const Cache* cache) {
  for (const auto& [layer, shape] : r.cached) {
    require(cache && layer < cache->layers.size(), "no cache for a layer that attends or has a state");
    require(cache->layers[layer] == shape, "a cache of another shape");
  }
}

namespace {

// What rows at positions first to last of a sequence reach in a group of layers. Attention reads every page up to the last; of states,
// the one before the rows is read, and those of their last two pages are written.
void check_pages(const int32_t* entries, int64_t first, int64_t last, bool states, int64_t count) {
  auto there = [=](int64_t page) { require(entries[page] >= 0 && entries[page] < count, "a page outside the cache"); };
  if (states && first > 0) there((first - 1) / kPage);
  for (int64_t page = states ? std::max(first / kPage, last / kPage - 1) : 0; page <= last / kPage; page++) there(page);
}

}  // namespace

void check_batch(const Recording& r, const StepView& s, const Cache* cache) {
  require(!cache || s.groups == (int64_t)cache->pages.size(), "page tables of another number of groups");
  require(s.count <= r.most_rows, "more rows than a constant has");
  std::vector<bool> states;
  for (int64_t group = 0; group < s.groups; group++) states.push_back(cache && cache->has_states(group));
  int64_t first = 0;  // row of the present sequence
  for (int64_t i = 0; i < s.count; i++) {
    require(s.tokens[i] >= 0 && s.tokens[i] < r.most_tokens && s.previous[i] < r.most_tokens, "a token outside the embedding");
    require(s.sequence[i] >= 0 && s.sequence[i] < s.sequences, "a sequence without a row in the page table");
    require(s.positions[i] >= 0 && s.positions[i] / kPage < s.widest && s.positions[i] < r.most_positions,
            "a position past the page table");
    if (i + 1 < s.count && s.sequence[i + 1] == s.sequence[i]) {
      require(s.positions[i + 1] > s.positions[i], "positions of a sequence that do not ascend");
      continue;
    }
    // A prompt that sees both ways is read to its end.
    int64_t last = std::max<int64_t>(s.positions[i], r.bidirectional ? s.prompt_lengths[s.sequence[i]] - 2 : 0);
    require(last / kPage < s.widest, "a prompt past the page table");
    for (int64_t group = 0; group < s.groups; group++) {
      if (states[(size_t)group]) require(s.positions[i] - s.positions[first] == i - first, "positions of a state that leave one out");
      int64_t pages = cache ? cache->pages[(size_t)group] : std::numeric_limits<int32_t>::max();
      check_pages(s.pages(group, s.sequence[i]), s.positions[first], last, states[(size_t)group], pages);
    }
    first = i + 1;
  }
  for (int64_t i = 0; i < s.wanted; i++) require(s.rows[i] >= 0 && s.rows[i] < s.count, "a wanted row that is not there");
}

}  // namespace linnet
