#include "sample.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace linnet {

namespace {

struct Candidate {
  float logit;
  int32_t id;
};

bool likelier(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

// Candidates, of which only as many are put in order as are looked at: a whole vocabulary is rarely needed.
class Ranking {
 public:
  Ranking(const float* logits, int64_t count, double temperature) : temperature_(temperature) {
    candidates_.reserve((size_t)count);
    for (int64_t i = 0; i < count; i++) candidates_.push_back({logits[i], (int32_t)i});
    largest_ = *std::max_element(logits, logits + count);
  }
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

int64_t largest_of(const float* logits, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; i++) {
    if (logits[i] > logits[best]) best = i;
  }
  return best;
}

}  // namespace

int64_t sample(const float* logits, int64_t count, double temperature, int64_t top_k, double top_p, double min_p, double uniform) {
  if (temperature == 0) return largest_of(logits, count);
  Ranking ranking(logits, count, temperature);
  if (top_k > 0 && top_k < count) ranking.keep_first((size_t)top_k);
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
