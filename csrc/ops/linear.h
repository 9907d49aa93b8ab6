// Products of activations with weights.
#pragma once
#include "tape.h"

namespace linnet {

// One product of several that run as one task: y[t * stride + r] = x[t] . w[r] + bias[r] for `tokens` rows of x.
struct Product {
  const Matrix* w;
  int64_t expert;
  const void* x;  // floats [tokens, columns], or tiles of quantized rows
  int64_t tokens;
  float* y;
  int64_t stride;
  const float* bias;  // null: none
};

// Runs products whose weights are all of block formats, or all floats (see `quantized_form`).
void run_products(const Run&, const Product* products, size_t count);

// How a weight wants its activations.
enum class Form { Floats, Q8_0, Q8_K };
Form form_for(const Matrix&);
size_t form_bytes(Form, int64_t width);  // of one row
// Quantizes up to a tile of rows x [tokens, width] of floats; `to` is where the tile begins.
void quantize_tile(const Run&, Form, const float* x, int64_t width, int64_t tokens, void* to);

// Records x @ w.T + bias; products of one input that follow each other become one task.
int record_linear(Tape&, int x, std::shared_ptr<Matrix> w, std::shared_ptr<Vector> bias);
// Records x in the form that w wants, once.
int record_form(Tape&, int x, Form form, int64_t width);

}  // namespace linnet
