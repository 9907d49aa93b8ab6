#include "sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace linnet {

namespace {

struct Candidate {
  float logit;
  int32_t id;
};

bool likelier(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

// Calls `use` with every allowed token, in order; of words that allow nothing, it costs one look.
template <class Use>
void each_allowed(const uint32_t* allowed, int64_t count, Use use) {
  for (int64_t first = 0; first < count; first += 32) {
    const int64_t end = std::min(first + 32, count);
    uint32_t bits = allowed == nullptr ? ~0u : allowed[first / 32];
    if (bits == ~0u) {
      for (int64_t i = first; i < end; i++) use(i);
      continue;
    }
    for (int64_t i = first; bits != 0 && i < end; i++, bits >>= 1) {
      if (bits & 1) use(i);
    }
  }
}

// Candidates, of which only as many are put in order as are looked at: a whole vocabulary is rarely needed.
class Ranking {
 public:
  Ranking(const float* logits, int64_t count, const uint32_t* allowed, double temperature) : temperature_(temperature) {
    candidates_.reserve(allowed == nullptr ? (size_t)count : 0);
    float largest = -std::numeric_limits<float>::infinity();
    each_allowed(allowed, count, [&](int64_t i) {
      candidates_.push_back({logits[i], (int32_t)i});
      largest = std::max(largest, logits[i]);
    });
    largest_ = largest;
  }
  bool empty() const { return std::isinf(largest_); }
  size_t size() const { return candidates_.size(); }
  double weight(size_t i) const { return std::exp(((double)candidates_[i].logit - largest_) / temperature_); }
  double total() const {
    double sum = 0;
    for (size_t i = 0; i < size(); i++) sum += weight(i);
    return sum;
  }
  const Candidate& ranked(size_t i) {
    if (i >= sorted_) {
      size_t wanted = sorted_ < 2048 ? std::min(size(), std::max<size_t>({256, 8 * sorted_, i + 1})) : size();
      auto begin = candidates_.begin() + (long)sorted_;
      if (wanted < size()) {
        std::partial_sort(begin, candidates_.begin() + (long)wanted, candidates_.end(), likelier);
      } else {
        std::sort(begin, candidates_.end(), likelier);
      }
      sorted_ = wanted;
    }
    return candidates_[i];
  }
  void keep_first(size_t count) {
    ranked(count - 1);
    candidates_.resize(count);
  }
  // Keeps what weighs at least `share` of the likeliest; what is ranked stays ranked.
  void keep_share(double share) {
    size_t kept = 0, kept_sorted = 0;
    for (size_t i = 0; i < size(); i++) {
      if (weight(i) < share) continue;
      kept_sorted += i < sorted_;
      candidates_[kept++] = candidates_[i];
    }
    candidates_.resize(kept);
    sorted_ = kept_sorted;
  }

 private:
  std::vector<Candidate> candidates_;
  size_t sorted_ = 0;
  double temperature_, largest_;
};

int64_t largest_of(const float* logits, int64_t count, const uint32_t* allowed) {
  int64_t best = -1;
  float largest = -std::numeric_limits<float>::infinity();
  each_allowed(allowed, count, [&](int64_t i) {
    if (logits[i] > largest) {
      best = i;
      largest = logits[i];
    }
  });
  return best;
}

}  // namespace

int64_t sample(const float* logits, int64_t count, const uint32_t* allowed, double temperature, int64_t top_k, double top_p, double min_p,
               double uniform) {
  if (temperature == 0) return largest_of(logits, count, allowed);
  Ranking ranking(logits, count, allowed, temperature);
  if (ranking.empty()) return -1;
  if (top_k > 0 && (size_t)top_k < ranking.size()) ranking.keep_first((size_t)top_k);
  if (top_p < 1) {
    double limit = top_p * ranking.total(), reached = 0;
    for (size_t i = 0; i < ranking.size(); i++) {
      ranking.ranked(i);
      reached += ranking.weight(i);
      if (reached >= limit) {
        ranking.keep_first(i + 1);
        break;
      }
    }
  }
  if (min_p > 0) ranking.keep_share(min_p);
  double target = uniform * ranking.total(), reached = 0;
  int64_t chosen = ranking.ranked(0).id;
  for (size_t i = 0; i < ranking.size(); i++) {
    const Candidate& candidate = ranking.ranked(i);
    double weight = ranking.weight(i);
    if (weight == 0) break;  // the sum may have rounded past the last that weighs anything
    chosen = candidate.id;
    reached += weight;
    if (reached > target) break;
  }
  return chosen;
}

}  // namespace linnet
