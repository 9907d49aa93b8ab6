// Row-wise operations: each row is one task's, so its bits do not depend on the batch.
#include <cstring>

#include "context.h"

namespace linnet {

TensorPointer rms_norm(Context& c, const Tensor& x, const Tensor& weight, float epsilon, int64_t groups) {
  auto y = c.tensor(x.rows, x.width);
  int64_t width = x.width / groups;
  c.threads.run(x.rows, [&](int64_t r, int) {
    for (int64_t g = 0; g < groups; g++)
      c.kernels.norm(kRmsNorm, x.row(r) + g * width, weight.data(), nullptr, epsilon, width, y->row(r) + g * width);
  });
  return y;
}

TensorPointer rotate(Context& c, const Tensor& x, const float* cosine, const float* sine, int dim, int head_dim, bool interleaved) {
  auto y = c.tensor(x.rows, x.width);
  c.threads.run(x.rows, [&](int64_t r, int) {
    const float *row_cosine = cosine + r * (dim / 2), *row_sine = sine + r * (dim / 2);
    for (int64_t h = 0; h < x.width; h += head_dim) {
      c.kernels.rotate(x.row(r) + h, row_cosine, row_sine, 0, dim, head_dim, interleaved, y->row(r) + h);
    }
  });
  return y;
}

TensorPointer add(Context& c, const Tensor& a, const Tensor& b) {
  auto y = c.tensor(a.rows, a.width);
  c.threads.run(a.rows, [&](int64_t r, int) { c.kernels.add(a.row(r), 1.0f, b.row(r), 1.0f, a.width, y->row(r)); });
  return y;
}

TensorPointer activate(Context& c, const Tensor& x, int activation) {
  auto y = c.tensor(x.rows, x.width);
  c.threads.run(x.rows, [&](int64_t r, int) { c.kernels.activate[activation](x.row(r), x.width, y->row(r)); });
  return y;
}

TensorPointer gate(Context& c, const Tensor& g, const Tensor& u, int activation) {
  auto y = c.tensor(g.rows, g.width);
  c.threads.run(g.rows, [&](int64_t r, int) { c.kernels.gate[activation](g.row(r), u.row(r), g.width, y->row(r)); });
  return y;
}

TensorPointer take(Context& c, const Tensor& x, const int32_t* rows, int64_t count) {
  auto y = c.tensor(count, x.width);
  for (int64_t i = 0; i < count; i++) std::memcpy(y->row(i), x.row(rows[i]), sizeof(float) * (size_t)x.width);
  return y;
}

}  // namespace linnet
