// The Python face of the core: arguments checked, the GIL released, no logic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <stdexcept>
#include <utility>

#include "core/peaks.h"
#include "ops/linear.h"
#include "ops/record.h"
#include "ops/sample.h"
#include "quantize/quantize.h"
#include "recording.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace linnet;

namespace {

template <class T>
using Array1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array3 = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

const Format& format_or_throw(int id) {
  const Format* f = format_of(id);
  require(f != nullptr, "no kernels for this tensor type");
  return *f;
}

MatrixPointer matrix(Context& c, std::vector<Array1<uint8_t>> raws, int stored, int target, int64_t rows, int64_t columns, bool pack) {
  const Format &from = format_or_throw(stored), &to = format_or_throw(target);
  require(rows > 0 && columns > 0 && columns % from.block == 0 && columns % to.block == 0, "columns are not a multiple of the block");
  std::vector<const uint8_t*> data;
  for (const auto& raw : raws) {
    require(raw.shape(0) == (size_t)rows * (size_t)(columns / from.block) * from.raw_bytes, "raw data of another size than rows x columns");
    data.push_back(raw.data());
  }
  require(!data.empty(), "no matrices");
  nb::gil_scoped_release release;
  return make_matrix(c, data, from, to, rows, columns, pack);
}

nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>> quantized(Array1<uint8_t> raw, int stored, int target, int64_t rows, int64_t columns,
                                                       std::optional<Array1<float>> importance, int threads, const std::string& isa) {
  const Format &from = format_or_throw(stored), &to = format_or_throw(target);
  require(rows > 0 && columns > 0 && columns % from.block == 0 && columns % to.block == 0, "columns are not a multiple of the block");
  require(raw.shape(0) == (size_t)rows * (size_t)(columns / from.block) * from.raw_bytes, "raw data of another size than rows x columns");
  require(!importance || (int64_t)importance->shape(0) == columns, "importance of another length than the columns");
  require(threads > 0, "no threads");
  for (int64_t k = 0; importance && k < columns; k++) {
    require(importance->data()[k] >= 0 && importance->data()[k] < std::numeric_limits<float>::infinity(),
            "importance below zero or not finite");
  }
  const Kernels& kernels = kernels_for(isa);
  size_t shape[2] = {(size_t)rows, (size_t)(columns / to.block) * to.raw_bytes};
  auto* data = new uint8_t[shape[0] * shape[1]];
  nb::capsule owner(data, [](void* p) noexcept { delete[] (uint8_t*)p; });
  {
    nb::gil_scoped_release release;
    ThreadPool pool(threads);
    Encoder encoder(kernels, from, to, columns, importance ? importance->data() : nullptr);
    quantize_rows(encoder, pool, raw.data(), rows, data);
  }
  return {data, 2, shape, owner};
}

using Recorded = Recording&;

using Owned = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

Owned run(Recorded r, int result, Cache* cache, Array1<int32_t> tokens, Array1<int32_t> positions, Array1<int32_t> previous,
          Array1<int32_t> sequence, Array3<int32_t> page_table, Array1<int32_t> prompt_lengths, Array1<int32_t> rows,
          std::vector<Array2<float>> rotations) {
  r.known(result);
  size_t n = tokens.shape(0);
  StepView s{(int64_t)n,
             (int64_t)rows.shape(0),
             (int64_t)page_table.shape(0),
             (int64_t)page_table.shape(1),
             (int64_t)page_table.shape(2),
             tokens.data(),
             positions.data(),
             previous.data(),
             sequence.data(),
             page_table.data(),
             prompt_lengths.data(),
             rows.data(),
             false,
             {}};
  require(positions.shape(0) == n && previous.shape(0) == n && sequence.shape(0) == n && (int64_t)prompt_lengths.shape(0) == s.sequences,
          "the arrays of a batch differ in length");
  check_cache(r, cache);
  check_batch(r, s, cache);
  for (size_t i = 1; i < n; i++) s.for_prompt |= s.sequence[i] == s.sequence[i - 1];
  require(rotations.size() == r.rotations.size(), "rotations are missing");
  for (size_t i = 0; i < rotations.size(); i++) {
    require((int64_t)rotations[i].shape(0) == s.sequences && (int64_t)rotations[i].shape(1) == r.rotations[i],
            "rotations of another shape");
    s.rotations.push_back(rotations[i].data());
  }
  int64_t count = r.tape.rows_of(result) == Rows::All ? s.count : s.wanted, width = r.tape.width_of(result);
  // Recycled once the array is gone: a large vocabulary's logits would be fresh memory at every token.
  auto* buffer = new Buffer(r.context->buffers, sizeof(float) * (size_t)std::max<int64_t>(1, count * width));
  nb::capsule owner(buffer, [](void* p) noexcept { delete (Buffer*)p; });
  {
    nb::gil_scoped_release release;
    r.tape.run(*r.context, cache, s, result, (float*)buffer->data());
  }
  size_t shape[2] = {(size_t)count, (size_t)width};
  return Owned(buffer->data(), 2, shape, owner);
}

void bind_types(nb::module_& m) {
  nb::class_<Context>(m, "Context")
      .def(nb::init<int, int, std::string>(), "threads"_a, "prefill_threads"_a, "isa"_a = "")
      .def_prop_ro("isa", [](Context& c) { return c.kernels.name; })
      .def("peaks", [](Context& c) {
        nb::gil_scoped_release release;
        Peaks peaks = measure_peaks(c.decode, c.kernels.name);
        return std::make_tuple(peaks.integer, peaks.real);
      });
  nb::class_<Vector>(m, "Vector").def("__init__", [](Vector* v, Array1<float> values) {
    new (v) Vector(values.data(), values.data() + values.size());
  });
  nb::class_<Matrix>(m, "Matrix", nb::dynamic_attr())
      .def_ro("experts", &Matrix::experts)
      .def_ro("rows", &Matrix::rows)
      .def_ro("columns", &Matrix::columns)
      .def_ro("owned_bytes", &Matrix::owned)
      .def_prop_ro("type", [](const Matrix& w) { return (int)w.format.type; });
  nb::class_<Cache>(m, "Cache")
      .def(
          "__init__",
          [](Cache* c, std::vector<std::tuple<int64_t, int64_t, int64_t>> shapes, std::vector<int64_t> groups, std::vector<int64_t> pages,
             int type, std::vector<int64_t> states) {
            require(type >= 0 && type <= (int)KvType::F32 && groups.size() == shapes.size(), "no such type of cache");
            require(states.empty() || states.size() == shapes.size(), "not one size of a state for each layer");
            for (int64_t count : pages) require(count > 0, "a cache of no pages");
            for (int64_t group : groups) require(group >= 0 && group < (int64_t)pages.size(), "a layer of no group");
            std::vector<Cache::Shape> made;
            for (size_t i = 0; i < shapes.size(); i++) {
              auto [kv_heads, head_dim, value_dim] = shapes[i];
              int64_t state = states.empty() ? 0 : states[i];
              require(state > 0 || (kv_heads > 0 && head_dim > 0 && value_dim > 0), "a cache of no width");
              made.push_back({kv_heads, head_dim, value_dim, state});
            }
            new (c) Cache(made, groups, pages, (KvType)type);
          },
          "shapes"_a, "groups"_a, "pages"_a, "type"_a, "states"_a = std::vector<int64_t>())
      .def_ro("pages", &Cache::pages)
      .def(
          "copy_page",
          [](Cache& c, int64_t source, int64_t target, int64_t group) {
            require(group >= 0 && group < (int64_t)c.pages.size(), "no such group of pages");
            int64_t pages = c.pages[(size_t)group];
            require(source >= 0 && source < pages && target >= 0 && target < pages && source != target, "a page that cannot be copied");
            c.copy_page(source, target, group);
          },
          "source"_a, "target"_a, "group"_a)
      .def_prop_ro("bytes", [](const Cache& c) {
        size_t bytes = 0;
        for (const Cache::Layer& l : c.layers) bytes += l.bytes;
        return bytes;
      });
}

void bind_row_work(nb::class_<Recording>& tape) {
  tape.def("constant", [](Recorded r, Array2<float> x) {
    require(x.shape(1) > 0, "constant: no columns");
    r.most_rows = std::min(r.most_rows, (int64_t)x.shape(0));
    return record_constant(r.tape, std::vector<float>(x.data(), x.data() + x.size()), (int64_t)x.shape(1));
  });
  tape.def("embed", [](Recorded r, MatrixPointer table, int source, int64_t offset) {
    require(source >= 0 && source <= 2 && offset >= 0, "embed: no such source");
    bool positions = source == (int)Source::Positions;
    int64_t& most = positions ? r.most_positions : r.most_tokens;
    most = std::min(most, positions ? table->rows - offset : table->rows);
    return record_embed(r.tape, table, (Source)source, offset);
  });
  tape.def(
      "norm",
      [](Recorded r, int x, VectorPointer weight, VectorPointer bias, int kind, float epsilon, int64_t groups) {
        int64_t width = r.tape.width_of(r.known(x));
        require(groups > 0 && width % groups == 0, "norm: groups that do not divide");
        for (const VectorPointer& v : {weight, bias}) {
          require(!v || (int64_t)v->size() == width || (int64_t)v->size() == width / groups, "norm: shapes differ");
        }
        return record_norm(r.tape, x, weight, bias, kind, epsilon, groups);
      },
      "x"_a, "weight"_a.none(), "bias"_a.none(), "kind"_a, "epsilon"_a, "groups"_a);
  tape.def(
      "angles",
      [](Recorded r, int start, int dim, bool interleaved, int positions, VectorPointer frequencies) {
        require(dim > 0 && dim % 2 == 0 && (!frequencies || (int)frequencies->size() == dim / 2 + 1), "angles: shapes differ");
        if (!frequencies) r.rotations.push_back(dim / 2 + 1);
        return record_angles(r.tape, {start, dim, interleaved, positions}, frequencies, (int)r.rotations.size() - 1);
      },
      "start"_a, "dim"_a, "interleaved"_a, "positions"_a, "frequencies"_a.none());
  tape.def("rotate", [](Recorded r, int x, int angles, int start, int dim, bool interleaved, int64_t head_dim) {
    r.beside({x, angles});
    require(head_dim > 0 && r.tape.width_of(x) % head_dim == 0 && start >= 0 && start + dim <= head_dim && r.tape.width_of(angles) == dim,
            "rotate: shapes differ");
    return record_rotate(r.tape, x, angles, {start, dim, interleaved, 0}, head_dim);
  });
  tape.def("activate", [](Recorded r, int x, int activation) {
    require(activation >= 0 && activation < kActivations && activation != kClampedSwiglu, "activate: no such activation");
    return record_activate(r.tape, r.known(x), activation);
  });
  tape.def("gate", [](Recorded r, int gate, int up, int activation) {
    r.beside({gate, up});
    require(r.tape.width_of(gate) == r.tape.width_of(up), "gate: shapes differ");
    require(activation >= 0 && activation < kActivations, "gate: no such activation");
    return record_gate(r.tape, gate, up, activation);
  });
  tape.def("add", [](Recorded r, int a, int b, float a_scale, float b_scale) {
    r.beside({a, b});
    require(r.tape.width_of(a) == r.tape.width_of(b), "add: shapes differ");
    return record_add(r.tape, a, b, a_scale, b_scale);
  });
  tape.def("scale", [](Recorded r, int x, float factor) { return record_scale(r.tape, r.known(x), factor); });
  tape.def("scale", [](Recorded r, int x, const Vector& factor) {
    require(factor.size() == 1, "scale: more than one factor");
    return record_scale(r.tape, r.known(x), factor[0]);
  });
  tape.def("weigh", [](Recorded r, int x, int weights) {
    r.beside({x, weights});
    require(r.tape.width_of(x) % r.tape.width_of(weights) == 0, "weigh: shapes differ");
    return record_weigh(r.tape, x, weights);
  });
  tape.def("columns", [](Recorded r, int x, int64_t start, int64_t count) {
    require(start >= 0 && count > 0 && start + count <= r.tape.width_of(r.known(x)), "columns that are not there");
    return record_columns(r.tape, x, start, count);
  });
  tape.def("append_shared", [](Recorded r, int x, int shared, int64_t heads) {
    r.beside({x, shared});
    require(heads > 0 && r.tape.width_of(x) % heads == 0, "append_shared: shapes differ");
    return record_append_shared(r.tape, x, shared, heads);
  });
  tape.def("take", [](Recorded r, int x) {
    r.of_batch({x});
    return record_take(r.tape, x);
  });
  tape.def("softcap", [](Recorded r, int x, float cap) { return record_softcap(r.tape, r.known(x), cap); });
}

void bind_whole_work(nb::class_<Recording>& tape) {
  tape.def(
      "linear",
      [](Recorded r, int x, MatrixPointer w, VectorPointer bias) {
        require(r.tape.width_of(r.known(x)) == w->columns && w->experts == 1 && (!bias || (int64_t)bias->size() == w->rows),
                "linear: shapes differ");
        return record_linear(r.tape, x, w, bias);
      },
      "x"_a, "w"_a, "bias"_a.none());
  tape.def(
      "attend",
      [](Recorded r, int q, std::optional<int> k, std::optional<int> v, int layer, int heads, std::tuple<int64_t, int64_t, int64_t> kv,
         float scale, float softcap, int64_t window, bool bidirectional, VectorPointer slopes, VectorPointer sinks) {
        auto [kv_heads, head_dim, value_dim] = kv;
        r.of_batch({q, k.value_or(q), v.value_or(q)});
        require(layer >= 0 && kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && r.tape.width_of(q) == heads * head_dim &&
                    k.has_value() == v.has_value() && (!k || r.tape.width_of(*k) == kv_heads * head_dim) &&
                    (!v || r.tape.width_of(*v) == kv_heads * value_dim),
                "attend: shapes differ");
        for (const VectorPointer& each : {slopes, sinks}) require(!each || (int)each->size() == heads, "attend: one number per head");
        r.cached.push_back({(size_t)layer, {kv_heads, head_dim, value_dim}});
        r.bidirectional |= bidirectional;
        return record_attend(r.tape, {kv_heads, head_dim, value_dim}, {layer, heads, scale, softcap, window, bidirectional}, q,
                             k.value_or(-1), v.value_or(-1), slopes, sinks);
      },
      "q"_a, "k"_a.none(), "v"_a.none(), "layer"_a, "heads"_a, "kv"_a, "scale"_a, "softcap"_a, "window"_a, "bidirectional"_a,
      "slopes"_a.none(), "sinks"_a.none());
  tape.def(
      "convolve",
      [](Recorded r, int x, VectorPointer weight, VectorPointer bias, int layer, int taps, int64_t start, int64_t state) {
        r.of_batch({x});
        int64_t width = r.tape.width_of(x);
        require(layer >= 0 && taps > 0 && taps <= kMostTaps && (int64_t)weight->size() == width * taps &&
                    (!bias || (int64_t)bias->size() == width) && start >= 0 && start + (taps - 1) * width <= state,
                "convolve: shapes differ");
        r.cached.push_back({(size_t)layer, {1, 0, 0, state}});
        return record_convolve(r.tape, {layer, width, taps, start}, x, weight, bias);
      },
      "x"_a, "weight"_a, "bias"_a.none(), "layer"_a, "taps"_a, "start"_a, "state"_a);
  tape.def("delta_rule", [](Recorded r, int q, int k, int v, int rate, int strength, VectorPointer decay, int layer,
                            std::tuple<int64_t, int64_t, int64_t, int64_t> heads, int64_t state) {
    auto [key_heads, value_heads, key_dim, value_dim] = heads;
    r.of_batch({q, k, v, rate, strength});
    int64_t start = state - value_heads * key_dim * value_dim;
    require(layer >= 0 && key_heads > 0 && value_heads > 0 && value_heads % key_heads == 0 && key_dim > 0 && value_dim > 0 && start >= 0 &&
                r.tape.width_of(q) == key_heads * key_dim && r.tape.width_of(k) == key_heads * key_dim &&
                r.tape.width_of(v) == value_heads * value_dim && r.tape.width_of(rate) == value_heads &&
                r.tape.width_of(strength) == value_heads && (int64_t)decay->size() == value_heads,
            "delta_rule: shapes differ");
    r.cached.push_back({(size_t)layer, {1, 0, 0, state}});
    return record_delta_rule(r.tape, {layer, key_heads, value_heads, key_dim, value_dim, start}, q, k, v, rate, strength, decay);
  });
  tape.def(
      "experts",
      [](Recorded r, int x, int logits, std::vector<MatrixPointer> matrices, std::vector<VectorPointer> biases,
         std::tuple<int, int, bool, float, int, int> router, int activation, VectorPointer correction, VectorPointer scale) {
        require(matrices.size() == 3 && biases.size() == 3 && matrices[1] && matrices[2], "experts: gate, up and down");
        ExpertWeights w{matrices[0], matrices[1], matrices[2], biases[0], biases[1], biases[2]};
        auto [active, scoring, normalise, factor, groups, active_groups] = router;
        require(activation >= 0 && activation < kActivations && (matrices[0] || activation != kClampedSwiglu),
                "experts: no such activation");
        r.of_batch({x, logits});
        int64_t experts = r.tape.width_of(logits), hidden = r.tape.width_of(x);
        for (int i = 0; i < 3; i++) {
          const MatrixPointer& m = matrices[(size_t)i];
          int64_t rows = i < 2 ? w.up->rows : hidden, columns = i < 2 ? hidden : w.up->rows;
          require(!m || (m->experts == experts && m->rows == rows && m->columns == columns), "experts: shapes differ");
          require(!m || i == 2 || form_for(*m) == form_for(*w.up), "experts: gate and up of different kinds");
          require(!biases[(size_t)i] || (m && (int64_t)biases[(size_t)i]->size() == experts * m->rows), "experts: a bias of another shape");
        }
        require(active > 0 && active <= experts && groups > 0 && experts % groups == 0 && active_groups > 0 && active_groups <= groups &&
                    active <= experts / groups * active_groups && (!correction || (int64_t)correction->size() == experts) &&
                    (!scale || (int64_t)scale->size() == experts),
                "experts: a router that cannot choose");
        return record_experts(r.tape, x, logits, w, {active, scoring, normalise, factor, groups, active_groups}, activation, correction,
                              scale);
      },
      "x"_a, "logits"_a, "matrices"_a, "biases"_a, "router"_a, "activation"_a, "correction"_a.none(), "scale"_a.none() = nb::none());
  tape.def("run", &run, "result"_a, "cache"_a.none(), "tokens"_a, "positions"_a, "previous"_a, "sequence"_a, "page_table"_a,
           "prompt_lengths"_a, "rows"_a, "rotations"_a);
}

void bind_values(nb::module_& m) {
  // raws: as they are, since a matrix may go on reading them where they lie.
  m.def("matrix", &matrix, "context"_a, nb::arg("raws").noconvert(), "stored"_a, "target"_a, "rows"_a, "columns"_a, "pack"_a);
  m.def("matrix_floats", [](const Matrix& w) {
    auto* data = new float[(size_t)(w.rows * w.columns)];
    nb::capsule owner(data, [](void* p) noexcept { delete[] (float*)p; });
    for (int64_t r = 0; r < w.rows; r++) w.row_to_floats(r, data + r * w.columns);
    size_t shape[2] = {(size_t)w.rows, (size_t)w.columns};
    return Owned(data, 2, shape, owner);
  });
  m.def("quantize_rows", &quantized, "raw"_a, "stored"_a, "target"_a, "rows"_a, "columns"_a, "importance"_a.none(), "threads"_a,
        "isa"_a = "");
  m.def(
      "sample",
      [](const Context& context, Array1<float> logits, double temperature, int64_t top_k, double top_p, double min_p, double uniform,
         std::optional<Array1<uint32_t>> allowed) {
        require(logits.shape(0) > 0, "sample: no logits");
        require(!allowed || allowed->shape(0) == (logits.shape(0) + 31) / 32, "sample: allowed is not a bit for each logit");
        nb::gil_scoped_release release;
        const uint32_t* words = allowed ? allowed->data() : nullptr;
        return sample(context.kernels, logits.data(), (int64_t)logits.shape(0), words, temperature, top_k, top_p, min_p, uniform);
      },
      "context"_a, "logits"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "uniform"_a, "allowed"_a = nb::none());
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "Linnet's C++ core: packed weights, kernels, KV pages, tapes. Use it through linnet.ops.native.";
  nb::set_leak_warnings(false);  // a model that still lives when its program ends is no leak to tell its user about
  m.attr("PAGE_SIZE") = kPage;
  m.def("available_isas", &available_isas);
  bind_types(m);
  nb::class_<Recording> tape(m, "Tape");
  tape.def(nb::init<std::shared_ptr<Context>>());
  bind_row_work(tape);
  bind_whole_work(tape);
  bind_values(m);
}
