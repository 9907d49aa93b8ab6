#include "sample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

namespace linnet {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Logits that may be drawn, in order of their ids; null ids: they are their places.
struct Candidates {
  const float* logits;
  const int32_t* ids;
  size_t count;
  int32_t id(size_t i) const { return ids ? ids[i] : (int32_t)i; }
};

// Candidates copied out of others.
struct Chosen {
  std::vector<float> logits;
  std::vector<int32_t> ids;
  void add(float logit, int32_t id) {
    logits.push_back(logit);
    ids.push_back(id);
  }
  Candidates all() const { return {logits.data(), ids.data(), logits.size()}; }
};

// The tokens of a set; of words that allow nothing, it costs one look.
Chosen only_allowed(const float* logits, int64_t count, const uint32_t* allowed) {
  Chosen chosen;
  for (int64_t first = 0; first < count; first += 32) {
    for (uint32_t bits = allowed[first / 32]; bits != 0; bits &= bits - 1) {
      int64_t i = first + __builtin_ctz(bits);
      if (i < count) chosen.add(logits[i], (int32_t)i);
    }
  }
  return chosen;
}

// The least and the largest logit of every kDrawBlock, of which the last may be shorter.
struct Blocks {
  std::vector<float> least, largest;

  Blocks(const Kernels& kernels, const Candidates& c)
      : least((c.count + kDrawBlock - 1) / kDrawBlock, kInfinity), largest(least.size(), -kInfinity) {
    size_t whole = c.count / kDrawBlock;
    kernels.extremes(c.logits, (int64_t)whole, least.data(), largest.data());
    for (size_t i = whole * kDrawBlock; i < c.count; i++) {
      least[whole] = std::min(least[whole], c.logits[i]);
      largest[whole] = std::max(largest[whole], c.logits[i]);
    }
  }
};

// The place of the largest logit, the first of equal ones; that of none where there is no number.
size_t likeliest(const Candidates& c, const Blocks& blocks) {
  auto block = std::max_element(blocks.largest.begin(), blocks.largest.end());
  if (block == blocks.largest.end()) return c.count;
  const float* first = c.logits + (block - blocks.largest.begin()) * kDrawBlock;
  return (size_t)(std::find(first, c.logits + c.count, *block) - c.logits);
}

float nth_largest(std::vector<float> values, size_t n) {
  std::nth_element(values.begin(), values.begin() + (long)n - 1, values.end(), std::greater<float>());
  return values[n - 1];
}

// The `count` likeliest, in order of their ids.
Chosen only_likeliest(const Candidates& c, const Blocks& blocks, size_t count) {
  // So many blocks have one that is no smaller.
  float least = count <= blocks.largest.size() ? nth_largest(blocks.largest, count) : -kInfinity;
  Chosen near, chosen;
  for (size_t i = 0; i < c.count; i++) {
    if (i % kDrawBlock == 0 && blocks.largest[i / kDrawBlock] < least) {
      i += kDrawBlock - 1;
    } else if (c.logits[i] >= least) {
      near.add(c.logits[i], c.id(i));
    }
  }
  count = std::min(count, near.logits.size());  // fewer where some are no numbers
  least = nth_largest(near.logits, count);
  size_t level = count;  // of those that are equal to the last one, the first ones belong to it
  for (float logit : near.logits) level -= logit > least;
  for (size_t i = 0; i < near.logits.size(); i++) {
    if (near.logits[i] > least || (near.logits[i] == least && level > 0)) {
      level -= near.logits[i] == least;
      chosen.add(near.logits[i], near.ids[i]);
    }
  }
  return chosen;
}

// Candidates by logit, ties by id, and the running sum of their weights. They lie in bins, each of a range of logits; only bins in which
// something is looked for are put in order, since a whole vocabulary takes long to sort.
class Ranking {
 public:
  // least, largest: of the logits.
  Ranking(const Kernels& kernels, const Candidates& candidates, float least, float largest, double temperature)
      : candidates_(candidates),
        weights_(new double[candidates.count]),
        bin_of_(new uint16_t[candidates.count]),
        bins_(std::clamp<size_t>(candidates.count / 16, 1, kMostBins)) {
    // A temperature of almost 0 has no inverse; the likeliest, whose difference is 0, must not become NaN.
    double inverse = std::min(1 / temperature, std::numeric_limits<double>::max());
    float spread = std::min(largest - least, kMostSpread), scale = spread > 0 ? (float)bins_.size() / spread : 0.0f;
    kernels.draw_weights(candidates.logits, (int64_t)candidates.count, largest, inverse, weights_.get());
    kernels.draw_bins(candidates.logits, (int64_t)candidates.count, largest, scale, (int)bins_.size() - 1, bin_of_.get());
    for (size_t i = 0; i < candidates.count; i++) {
      Bin& bin = bins_[bin_of_[i]];
      bin.count++;
      bin.weight += weights_[i];
    }
  }

  // The sum of the first `count` weights.
  double sum(size_t count) {
    double sum = 0;
    for (size_t b = 0; count > 0; b++) {
      if (bins_[b].count <= count) {
        sum += bins_[b].weight;
        count -= bins_[b].count;
        continue;
      }
      for (size_t i = 0; i < count; i++) sum += weights_[ordered((uint16_t)b)[i]];
      break;
    }
    return sum;
  }
  // How many come before the first with which the running sum exceeds `target`, or reaches it; all where none does.
  size_t before(double target, bool exceeds) {
    auto there = [=](double sum) { return exceeds ? sum > target : sum >= target; };
    double sum = 0;
    size_t rank = 0;
    for (size_t b = 0; b < bins_.size(); rank += bins_[b].count, b++) {
      if (double all = sum + bins_[b].weight; !there(all)) {
        sum = all;
        continue;
      }
      for (size_t i = 0; i < bins_[b].count; i++) {
        sum += weights_[ordered((uint16_t)b)[i]];
        if (there(sum)) return rank + i;
      }
    }
    return rank;
  }
  // How many weigh at least so much, and more than nothing.
  size_t weighing(double least) const {
    return (size_t)std::count_if(weights_.get(), weights_.get() + candidates_.count, [=](double w) { return w >= least && w > 0; });
  }
  int32_t id(size_t rank) {
    size_t b = 0;
    for (; rank >= bins_[b].count; b++) rank -= bins_[b].count;
    return candidates_.id(ordered((uint16_t)b)[rank]);
  }

 private:
  struct Bin {
    double weight = 0;
    size_t count = 0;
  };
  static constexpr size_t kMostBins = 1024;
  static constexpr float kMostSpread = 64;  // of logits: what is less likely than e^-64 shares the last bin

  // Places of a bin's candidates, the likeliest first.
  const std::vector<size_t>& ordered(uint16_t b) {
    if (ordered_bin_ == b) return ordered_;
    ordered_.clear();
    for (size_t first = 0; first < candidates_.count; first += kDrawBlock) {
      size_t end = std::min(first + kDrawBlock, candidates_.count);
      uint16_t any = 0;
      for (size_t i = first; i < end; i++) any |= (uint16_t)(bin_of_[i] == b);
      for (size_t i = first; any && i < end; i++) {
        if (bin_of_[i] == b) ordered_.push_back(i);
      }
    }
    const float* logits = candidates_.logits;
    std::stable_sort(ordered_.begin(), ordered_.end(), [=](size_t a, size_t b) { return logits[a] > logits[b]; });
    ordered_bin_ = b;
    return ordered_;
  }

  Candidates candidates_;
  std::unique_ptr<double[]> weights_;
  std::unique_ptr<uint16_t[]> bin_of_;
  std::vector<Bin> bins_;
  std::vector<size_t> ordered_;
  size_t ordered_bin_ = kMostBins;
};

}  // namespace

int64_t sample(const Kernels& kernels, const float* logits, int64_t count, const uint32_t* allowed, double temperature, int64_t top_k,
               double top_p, double min_p, double uniform) {
  Chosen of_set, of_rank;
  Candidates candidates{logits, nullptr, (size_t)count};
  if (allowed) candidates = (of_set = only_allowed(logits, count, allowed)).all();
  const Blocks blocks(kernels, candidates);
  const size_t first = likeliest(candidates, blocks);
  if (first == candidates.count || std::isinf(candidates.logits[first])) return -1;
  if (temperature == 0) return candidates.id(first);
  const float least = *std::min_element(blocks.least.begin(), blocks.least.end()), largest = candidates.logits[first];
  if (top_k > 0 && (size_t)top_k < candidates.count) candidates = (of_rank = only_likeliest(candidates, blocks, (size_t)top_k)).all();
  // Every filter keeps a beginning of the ranking.
  Ranking ranking(kernels, candidates, least, largest, temperature);
  size_t kept = candidates.count;
  if (top_p < 1) kept = std::min(kept, ranking.before(top_p * ranking.sum(kept), false) + 1);
  if (min_p > 0) kept = std::clamp<size_t>(ranking.weighing(min_p), 1, kept);
  size_t drawn = ranking.before(uniform * ranking.sum(kept), true);
  if (drawn >= kept) drawn = std::min(kept, ranking.weighing(0)) - 1;  // the sum has rounded past the last that weighs anything
  return ranking.id(drawn);
}

}  // namespace linnet
