// One line per elementwise operator: the host's and the device's kernels, the schemas and the costs come from these lists.
// Expressions are written once for every value type V (a vector of floats or doubles on the host, a float or double on
// a device), with the functions that the including file has declared before for its V: min, max, abs, exp, log, sqrt, sin,
// cos, tanh, erf, floor, pow, sign, constant<V>, sigmoid, gelu_tanh, gelu_erf, silu, relu and their _derivative.
//
// FLOPs: one for each arithmetic operation or function call of the formula.
#pragma once
#include "api/kernel.h"

// op(name, formats, flops, y from x, saved, flops of the gradient, dx from g = dy and s). `formats` says who has it: floating
// formats, or all numbers; `saved` what s is: x or y.
#define LF_UNARY_OPS(op)                                                                    \
  op(abs, numbers, 1, abs(x), x, 2, g * sign(s))                                            \
  op(exp, floating, 1, exp(x), y, 1, g * s)                                                 \
  op(log, floating, 1, log(x), x, 1, g / s)                                                 \
  op(sqrt, floating, 1, sqrt(x), y, 2, g * constant<V>(0.5) / s)                            \
  op(rsqrt, floating, 2, 1 / sqrt(x), y, 4, g * constant<V>(-0.5) * s * s * s)              \
  op(reciprocal, floating, 1, 1 / x, y, 3, -(g * s * s))                                    \
  op(square, numbers, 1, x * x, x, 2, g * (s + s))                                          \
  op(sin, floating, 1, sin(x), x, 2, g * cos(s))                                            \
  op(cos, floating, 1, cos(x), x, 3, -(g * sin(s)))                                         \
  op(tanh, floating, 1, tanh(x), y, 3, g * (1 - s * s))                                     \
  op(sigmoid, floating, 3, sigmoid(x), y, 3, g * (s * (1 - s)))                             \
  op(relu, numbers, 1, relu(x), y, 1, g * relu_derivative(s))                               \
  op(erf, floating, 1, erf(x), x, 4, g * (constant<V>(1.1283791670955126) * exp(-(s * s)))) \
  op(gelu_tanh, floating, 9, gelu_tanh(x), x, 18, g * gelu_tanh_derivative(s))              \
  op(gelu_erf, floating, 5, gelu_erf(x), x, 11, g * gelu_erf_derivative(s))                 \
  op(silu, floating, 4, silu(x), x, 8, g * silu_derivative(s))

// op(name, formats, flops, y from x): no gradient of its own (that of neg is neg; those of sign and floor are zero).
#define LF_UNARY_PLAIN_OPS(op)     \
  op(neg, numbers, 1, -x)          \
  op(sign, numbers, 1, sign(x))    \
  op(floor, floating, 1, floor(x))

// op(name, z from x and y). NaN wins in minimum and maximum.
#define LF_BINARY_OPS(op)                   \
  op(add, x + y)                            \
  op(sub, x - y)                            \
  op(mul, x * y)                            \
  op(minimum, ((x < y) | (x != x)) ? x : y) \
  op(maximum, ((x > y) | (x != x)) ? x : y)
// Floating formats only.
#define LF_BINARY_FLOATING_OPS(op) \
  op(div, x / y)                   \
  op(pow, pow(x, y))

// op(name, operator): bool from two numbers of any format.
#define LF_COMPARISON_OPS(op) \
  op(eq, ==)                  \
  op(ne, !=)                  \
  op(lt, <)                   \
  op(le, <=)                  \
  op(gt, >)                   \
  op(ge, >=)

// op(name, operator): bool from two bools.
#define LF_LOGICAL_OPS(op) \
  op(logical_and, &)       \
  op(logical_or, |)
