// Stored matrices among the inputs of a node of MLX's graph, and the pass over them once these have their values.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mixbit.h"
#include "nodes.hpp"
#include "products.hpp"

namespace mixbit {

// One of the matrices of a node, and which of the node's inputs are its parts.
struct Stored {
  Matrix form;  // everything but where the parts are
  std::string mode;
  int weight, scales, biases, bias;  // -1 where there is none
  long first_row = 0;  // of the input's rows; `form` has the number of them

  bool operator==(const Stored& other) const;
};

// The matrices of a pass, and what it makes of the products.
struct Plan {
  std::vector<Stored> matrices;
  Activation activation = Activation::none;
  bool gated = false;
  int addend = -1;  // input that is added; -1 for none

  bool operator==(const Plan&) const = default;

  long columns() const { return matrices[0].form.columns; }
  // Values that a row of x gives.
  long rows() const;
  // What is to be done with inputs that have their values.
  Pass pass(std::vector<Settled>& inputs) const;
};

// The array that an mlx_array points to.
inline const mx::array* array_at(const void* pointer) { return static_cast<const mx::array*>(pointer); }

// Appends the array that `pointer` points to, and returns its place; -1 for null.
int append(std::vector<mx::array>& inputs, const void* pointer);

// The form of a matrix [rows, columns] of MLX's codes and scales, if the kernels take it.
std::optional<Matrix> quantized_form(const mx::array& weight, const mx::array& scales, const std::optional<mx::array>& biases,
                                     int group, int bits, const std::string& mode);
// The form of a matrix that mixbit_interleave made.
Matrix interleaved_form(const struct mixbit_linear& linear);

// A plan for layers of `columns` columns, whose arrays are appended to the inputs; nothing if the kernels do not take them, or
// if these layers cannot be gated.
std::optional<Plan> plan_of(const struct mixbit_linear* linears, int count, long columns, Activation activation, bool gated,
                            std::vector<mx::array>& inputs);

}  // namespace mixbit
