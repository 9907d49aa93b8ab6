// The Python face of the core: arguments checked, the GIL released, no logic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "ops/context.h"
#include "ops/sample.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace linnet;

namespace {

template <class T>
using Array1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Array2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

const Format& format_or_throw(int id) {
  const Format* f = format_of(id);
  require(f != nullptr, "no kernels for this tensor type");
  return *f;
}

// The arrays of a Batch, held for as long as a step refers to them.
struct Step {
  Array1<int32_t> positions, sequence;
  Array2<int32_t> page_table;
  BatchView view;

  Step(Array1<int32_t> p, Array1<int32_t> s, Array2<int32_t> t, int64_t pages) : positions(p), sequence(s), page_table(t) {
    view = {(int64_t)p.shape(0), (int64_t)t.shape(0), (int64_t)t.shape(1), p.data(), s.data(), t.data()};
    require(p.shape(0) == s.shape(0), "positions and sequence differ in length");
    for (int64_t i = 0; i < view.count; i++) {
      require(view.sequence[i] >= 0 && view.sequence[i] < view.sequences, "a sequence without a row in the page table");
      require(view.positions[i] >= 0 && view.positions[i] / kPage < view.widest, "a position past the page table");
      // Attention reads every page up to the position, so all of them must exist.
      if (i + 1 < view.count && view.sequence[i + 1] == view.sequence[i]) continue;
      for (int64_t page = 0; page <= view.positions[i] / kPage; page++) {
        int32_t entry = view.page_table[view.sequence[i] * view.widest + page];
        require(entry >= 0 && entry < pages, "a page outside the cache");
      }
    }
  }
};

std::shared_ptr<Matrix> matrix(Context& c, Array1<uint8_t> raw, int stored, int target, int64_t rows, int64_t columns) {
  const Format &from = format_or_throw(stored), &to = format_or_throw(target);
  require(rows > 0 && columns > 0 && columns % from.block == 0 && columns % to.block == 0, "columns are not a multiple of the block");
  require(raw.shape(0) == (size_t)rows * (size_t)(columns / from.block) * from.raw_bytes, "raw data of another size than rows x columns");
  require(stored == target || to.from_floats != nullptr, "cannot re-encode to this tensor type");
  nb::gil_scoped_release release;
  return make_matrix(c, raw.data(), from, to, rows, columns);
}

TensorPointer tensor_from(Context& c, Array2<float> values) {
  auto t = c.tensor((int64_t)values.shape(0), (int64_t)values.shape(1));
  std::copy(values.data(), values.data() + values.size(), t->data());
  return t;
}

void bind_types(nb::module_& m) {
  nb::class_<Context>(m, "Context")
      .def(nb::init<int, std::string>(), "threads"_a, "isa"_a = "")
      .def_prop_ro("isa", [](Context& c) { return c.kernels.name; })
      .def_prop_ro("threads", [](Context& c) { return c.threads.size(); });
  nb::class_<Tensor>(m, "Tensor").def("numpy", [](std::shared_ptr<Tensor> t) {
    nb::object owner = nb::cast(t);
    size_t shape[2] = {(size_t)t->rows, (size_t)t->width};
    return nb::ndarray<nb::numpy, float, nb::ndim<2>>(t->data(), 2, shape, owner);
  });
  nb::class_<Matrix>(m, "Matrix", nb::dynamic_attr())
      .def_ro("rows", &Matrix::rows)
      .def_ro("columns", &Matrix::columns)
      .def_ro("owned_bytes", &Matrix::owned)
      .def_prop_ro("type", [](const Matrix& w) { return (int)w.format.type; });
  nb::class_<Cache>(m, "Cache")
      .def(nb::init<std::vector<std::pair<int64_t, int64_t>>, int64_t, bool>(), "shapes"_a, "pages"_a, "half"_a)
      .def_ro("pages", &Cache::pages)
      .def_prop_ro("bytes", [](const Cache& c) {
        size_t bytes = 0;
        for (const Cache::Layer& l : c.layers) bytes += l.bytes;
        return bytes;
      });
  nb::class_<Step>(m, "Step").def(nb::init<Array1<int32_t>, Array1<int32_t>, Array2<int32_t>, int64_t>());
}

void bind_ops(nb::module_& m) {
  m.def("matrix", &matrix);
  m.def("tensor", &tensor_from);
  m.def("embed", [](Context& c, Array1<int32_t> tokens, const Matrix& table) {
    for (size_t i = 0; i < tokens.shape(0); i++)
      require(tokens.data()[i] >= 0 && tokens.data()[i] < table.rows, "a token outside the embedding");
    nb::gil_scoped_release release;
    return embed(c, tokens.data(), (int64_t)tokens.shape(0), table);
  });
  m.def(
      "linear",
      [](Context& c, Tensor& x, const Matrix& w, const Tensor* bias) {
        require(x.width == w.columns && (!bias || bias->width == w.rows), "linear: shapes differ");
        return linear(c, x, w, bias);
      },
      "context"_a, "x"_a, "w"_a, "bias"_a.none(), ReleaseGil());
  m.def(
      "rms_norm",
      [](Context& c, const Tensor& x, const Tensor& weight, float epsilon, int64_t groups) {
        require(weight.width * groups == x.width, "rms_norm: shapes differ");
        return rms_norm(c, x, weight, epsilon, groups);
      },
      ReleaseGil());
  m.def("rotate", [](Context& c, const Tensor& x, Array2<float> cosine, Array2<float> sine, int head_dim, bool interleaved) {
    int dim = (int)cosine.shape(1) * 2;
    require((int64_t)cosine.shape(0) == x.rows && (int64_t)sine.shape(0) == x.rows && sine.shape(1) == cosine.shape(1) && dim <= head_dim &&
                x.width % head_dim == 0,
            "rotate: shapes differ");
    nb::gil_scoped_release release;
    return rotate(c, x, cosine.data(), sine.data(), dim, head_dim, interleaved);
  });
  m.def(
      "add",
      [](Context& c, const Tensor& a, const Tensor& b) {
        require(a.rows == b.rows && a.width == b.width, "add: shapes differ");
        return add(c, a, b);
      },
      ReleaseGil());
  m.def("activate", &activate, ReleaseGil());
  m.def(
      "gate",
      [](Context& c, const Tensor& g, const Tensor& u, int activation) {
        require(g.rows == u.rows && g.width == u.width, "gate: shapes differ");
        return gate(c, g, u, activation);
      },
      ReleaseGil());
  m.def("take", [](Context& c, const Tensor& x, Array1<int32_t> rows) {
    for (size_t i = 0; i < rows.shape(0); i++) require(rows.data()[i] >= 0 && rows.data()[i] < x.rows, "take: a row that is not there");
    return take(c, x, rows.data(), (int64_t)rows.shape(0));
  });
  m.def(
      "attend",
      [](Context& c, Cache& cache, const Step& step, const Tensor& q, const Tensor& k, const Tensor& v, int layer, int heads, float scale,
         int64_t window) {
        require(layer >= 0 && (size_t)layer < cache.layers.size(), "attend: no such layer");
        const Cache::Layer& l = cache.layers[(size_t)layer];
        require(q.rows == step.view.count && k.rows == q.rows && v.rows == q.rows && q.width == heads * l.head_dim &&
                    k.width == l.kv_heads * l.head_dim && v.width == k.width && heads % l.kv_heads == 0,
                "attend: shapes differ");
        return attend(c, cache, step.view, q, k, v, layer, heads, scale, window);
      },
      ReleaseGil());
  m.def("matrix_floats", [](const Matrix& w) {
    auto* data = new float[(size_t)(w.rows * w.columns)];
    nb::capsule owner(data, [](void* p) noexcept { delete[] (float*)p; });
    for (int64_t r = 0; r < w.rows; r++) w.row_to_floats(r, data + r * w.columns);
    size_t shape[2] = {(size_t)w.rows, (size_t)w.columns};
    return nb::ndarray<nb::numpy, float, nb::ndim<2>>(data, 2, shape, owner);
  });
  m.def("sample", [](Array1<float> logits, double temperature, int64_t top_k, double top_p, double min_p, double uniform) {
    require(logits.shape(0) > 0, "sample: no logits");
    nb::gil_scoped_release release;
    return sample(logits.data(), (int64_t)logits.shape(0), temperature, top_k, top_p, min_p, uniform);
  });
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "Linnet's C++ core: packed weights, kernels, KV pages. Use it through linnet.ops.native.";
  nb::set_leak_warnings(false);  // a model that still lives when its program ends is no leak to tell its user about
  m.attr("PAGE_SIZE") = kPage;
  m.def("available_isas", &available_isas);
  bind_types(m);
  bind_ops(m);
}
