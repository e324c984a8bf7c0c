#include "tests/optimizer/calibration/naive_qwen3.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/row_kernels.h"

namespace quantfit::test {
namespace {

// y = x r w on values first .. first + n - 1.
void norm(Vector& x, std::size_t first, std::size_t n, const Vector& w, double epsilon) {
  double squares = 0;
  for (std::size_t i = 0; i < n; ++i) squares += x[first + i] * x[first + i];
  const double r = 1 / std::sqrt(squares / static_cast<double>(n) + epsilon);
  for (std::size_t i = 0; i < n; ++i) x[first + i] *= r * w[i];
}
// dy becomes dx; x is what went in.
void norm_back(const Vector& x, std::size_t first, std::size_t n, const Vector& w, double epsilon,
               Vector& dy) {
  double squares = 0, along = 0;
  for (std::size_t i = 0; i < n; ++i) {
    squares += x[first + i] * x[first + i];
    along += w[i] * dy[first + i] * x[first + i];
  }
  const auto count = static_cast<double>(n);
  const double r = 1 / std::sqrt(squares / count + epsilon);
  for (std::size_t i = 0; i < n; ++i)
    dy[first + i] = r * (w[i] * dy[first + i] - x[first + i] * r * r * along / count);
}
// Pairs (i, i + n / 2); sign -1 turns back.
void rope(Vector& x, std::size_t first, std::size_t n, double base, double position, double sign) {
  for (std::size_t i = 0; i < n / 2; ++i) {
    const double angle = position * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(n));
    const double c = std::cos(angle), s = sign * std::sin(angle);
    const double a = x[first + i], b = x[first + i + n / 2];
    x[first + i] = a * c - b * s;
    x[first + i + n / 2] = a * s + b * c;
  }
}

}  // namespace

NaiveQwen3::NaiveQwen3(const Model& model) {
  const auto kernels = kernels::default_kernels();
  EXPECT_TRUE(kernels);
  for (const TensorInfo& tensor : model.tensors()) {
    Tensor& own = tensors_[tensor.name];
    own.columns = tensor.ne[0];
    std::vector<float> row(own.columns);
    for (std::uint64_t i = 0; i < tensor.rows(); ++i) {
      kernels.value()->decode[static_cast<std::size_t>(tensor.format)](model.row(tensor, i).data(),
                                                                       row.size(), row.data());
      own.values.insert(own.values.end(), row.begin(), row.end());
    }
  }
  const auto number = [&](const char* key) {
    return static_cast<std::size_t>(*model.arch_key(key)->as_uint());
  };
  layers_ = number("block_count");
  width_ = number("embedding_length");
  heads_ = number("attention.head_count");
  kv_heads_ = number("attention.head_count_kv");
  head_dim_ = number("attention.key_length");
  epsilon_ = *model.arch_key("attention.layer_norm_rms_epsilon")->as_double();
  base_ = *model.arch_key("rope.freq_base")->as_double();
}

Rows NaiveQwen3::multiply(const std::string& name, const Rows& x,
                          std::map<std::string, NaiveSums>& sums) const {
  const Tensor& w = tensors_.at(name);
  const std::size_t rows = w.values.size() / w.columns;
  NaiveSums& sum = sums[name];
  sum.output.resize(rows);
  sum.input.resize(w.columns);
  Rows y(x.size(), Vector(rows));
  for (std::size_t t = 0; t < x.size(); ++t) {
    for (std::size_t i = 0; i < w.columns; ++i) sum.input[i] += x[t][i] * x[t][i];
    for (std::size_t o = 0; o < rows; ++o) {
      double value = 0;
      for (std::size_t i = 0; i < w.columns; ++i) value += w.values[o * w.columns + i] * x[t][i];
      y[t][o] = value;
      sum.output[o] += value * value;
    }
  }
  return y;
}

Rows NaiveQwen3::back(const std::string& name, const Rows& dy, std::map<std::string, NaiveSums>& sums) const {
  const Tensor& w = tensors_.at(name);
  const std::size_t rows = w.values.size() / w.columns;
  NaiveSums& sum = sums[name];
  sum.gradient.resize(rows);
  Rows dx(dy.size(), Vector(w.columns, 0.0));
  for (std::size_t t = 0; t < dy.size(); ++t) {
    for (std::size_t o = 0; o < rows; ++o) {
      sum.gradient[o] += dy[t][o] * dy[t][o];
      for (std::size_t i = 0; i < w.columns; ++i) dx[t][i] += w.values[o * w.columns + i] * dy[t][o];
    }
  }
  return dx;
}

void NaiveQwen3::run(const std::vector<std::int32_t>& tokens,
                     const std::function<std::size_t(std::size_t, const Vector&)>& label,
                     std::map<std::string, NaiveSums>& sums, Vector& embedding,
                     Vector& embedding_columns) const {
  const std::size_t n = tokens.size(), d = head_dim_, group = heads_ / kv_heads_;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  struct Layer {
    Rows input, q_raw, k_raw, q, k, v, middle, gate, up;
    std::vector<Rows> p;  // [head][query][key]
  };
  std::vector<Layer> kept(layers_);
  Rows x(n);
  for (std::size_t t = 0; t < n; ++t) {
    const Vector& table = values("token_embd.weight");
    const auto at = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(tokens[t]) * width_);
    x[t].assign(table.begin() + at, table.begin() + at + static_cast<std::ptrdiff_t>(width_));
  }
  const auto normed = [&](const Rows& rows, const std::string& name) {
    Rows out(rows);
    for (Vector& row : out) norm(row, 0, width_, values(name), epsilon_);
    return out;
  };
  for (std::size_t il = 0; il < layers_; ++il) {
    const std::string b = "blk." + std::to_string(il) + ".";
    Layer& l = kept[il];
    l.input = x;
    const Rows a = normed(x, b + "attn_norm.weight");
    l.q = l.q_raw = multiply(b + "attn_q.weight", a, sums);
    l.k = l.k_raw = multiply(b + "attn_k.weight", a, sums);
    l.v = multiply(b + "attn_v.weight", a, sums);
    for (std::size_t t = 0; t < n; ++t) {
      for (std::size_t h = 0; h < heads_; ++h) {
        norm(l.q[t], h * d, d, values(b + "attn_q_norm.weight"), epsilon_);
        rope(l.q[t], h * d, d, base_, static_cast<double>(t), 1);
      }
      for (std::size_t h = 0; h < kv_heads_; ++h) {
        norm(l.k[t], h * d, d, values(b + "attn_k_norm.weight"), epsilon_);
        rope(l.k[t], h * d, d, base_, static_cast<double>(t), 1);
      }
    }
    Rows heads(n, Vector(heads_ * d, 0.0));
    l.p.assign(heads_, Rows(n));
    for (std::size_t h = 0; h < heads_; ++h) {
      const std::size_t kv = h / group * d;
      for (std::size_t t = 0; t < n; ++t) {
        Vector& p = l.p[h][t];
        p.resize(t + 1);
        double sum = 0;
        for (std::size_t j = 0; j <= t; ++j) {
          double u = 0;
          for (std::size_t i = 0; i < d; ++i) u += l.q[t][h * d + i] * l.k[j][kv + i];
          sum += p[j] = std::exp(scale * u);
        }
        for (std::size_t j = 0; j <= t; ++j) {
          p[j] /= sum;
          for (std::size_t i = 0; i < d; ++i) heads[t][h * d + i] += p[j] * l.v[j][kv + i];
        }
      }
    }
    const Rows mixed = multiply(b + "attn_output.weight", heads, sums);
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t i = 0; i < width_; ++i) x[t][i] += mixed[t][i];
    l.middle = x;
    const Rows f = normed(x, b + "ffn_norm.weight");
    l.gate = multiply(b + "ffn_gate.weight", f, sums);
    l.up = multiply(b + "ffn_up.weight", f, sums);
    Rows hidden(l.up);
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t i = 0; i < hidden[t].size(); ++i)
        hidden[t][i] *= l.gate[t][i] / (1 + std::exp(-l.gate[t][i]));
    const Rows out = multiply(b + "ffn_down.weight", hidden, sums);
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t i = 0; i < width_; ++i) x[t][i] += out[t][i];
  }
  const Rows logits = multiply("output.weight", normed(x, "output_norm.weight"), sums);
  Rows dlogits(logits);
  for (std::size_t t = 0; t < n; ++t) {
    double most = logits[t][0], sum = 0;
    for (const double z : logits[t]) most = std::max(most, z);
    for (double& z : dlogits[t]) sum += z = std::exp(z - most);
    for (double& z : dlogits[t]) z /= sum;
    dlogits[t][label(t, dlogits[t])] -= 1;
  }

  Rows dx = back("output.weight", dlogits, sums);
  for (std::size_t t = 0; t < n; ++t)
    norm_back(x[t], 0, width_, values("output_norm.weight"), epsilon_, dx[t]);
  const auto add = [&](Rows& to, const Rows& from) {
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t i = 0; i < from[t].size(); ++i) to[t][i] += from[t][i];
  };
  for (std::size_t il = layers_; il-- > 0;) {
    const std::string b = "blk." + std::to_string(il) + ".";
    const Layer& l = kept[il];
    const Rows dhidden = back(b + "ffn_down.weight", dx, sums);
    Rows dgate(dhidden), dup(dhidden);
    for (std::size_t t = 0; t < n; ++t) {
      for (std::size_t i = 0; i < dhidden[t].size(); ++i) {
        const double g = l.gate[t][i], s = 1 / (1 + std::exp(-g));
        dup[t][i] = dhidden[t][i] * g * s;
        dgate[t][i] = dhidden[t][i] * l.up[t][i] * s * (1 + g * (1 - s));
      }
    }
    Rows df = back(b + "ffn_gate.weight", dgate, sums);
    add(df, back(b + "ffn_up.weight", dup, sums));
    for (std::size_t t = 0; t < n; ++t)
      norm_back(l.middle[t], 0, width_, values(b + "ffn_norm.weight"), epsilon_, df[t]);
    add(dx, df);

    const Rows dheads = back(b + "attn_output.weight", dx, sums);
    Rows dq(n, Vector(heads_ * d, 0.0)), dk(n, Vector(kv_heads_ * d, 0.0)), dv(dk);
    for (std::size_t h = 0; h < heads_; ++h) {
      const std::size_t kv = h / group * d;
      for (std::size_t t = 0; t < n; ++t) {
        const Vector& p = l.p[h][t];
        Vector dp(t + 1, 0.0);
        double along = 0;
        for (std::size_t j = 0; j <= t; ++j) {
          for (std::size_t i = 0; i < d; ++i) {
            dp[j] += dheads[t][h * d + i] * l.v[j][kv + i];
            dv[j][kv + i] += p[j] * dheads[t][h * d + i];
          }
          along += p[j] * dp[j];
        }
        for (std::size_t j = 0; j <= t; ++j) {
          const double du = scale * p[j] * (dp[j] - along);
          for (std::size_t i = 0; i < d; ++i) {
            dq[t][h * d + i] += du * l.k[j][kv + i];
            dk[j][kv + i] += du * l.q[t][h * d + i];
          }
        }
      }
    }
    for (std::size_t t = 0; t < n; ++t) {
      for (std::size_t h = 0; h < heads_; ++h) {
        rope(dq[t], h * d, d, base_, static_cast<double>(t), -1);
        norm_back(l.q_raw[t], h * d, d, values(b + "attn_q_norm.weight"), epsilon_, dq[t]);
      }
      for (std::size_t h = 0; h < kv_heads_; ++h) {
        rope(dk[t], h * d, d, base_, static_cast<double>(t), -1);
        norm_back(l.k_raw[t], h * d, d, values(b + "attn_k_norm.weight"), epsilon_, dk[t]);
      }
    }
    Rows da = back(b + "attn_q.weight", dq, sums);
    add(da, back(b + "attn_k.weight", dk, sums));
    add(da, back(b + "attn_v.weight", dv, sums));
    for (std::size_t t = 0; t < n; ++t)
      norm_back(l.input[t], 0, width_, values(b + "attn_norm.weight"), epsilon_, da[t]);
    add(dx, da);
  }
  embedding_columns.resize(width_, 0.0);
  for (std::size_t t = 0; t < n; ++t) {
    double sum = 0;
    for (std::size_t i = 0; i < width_; ++i) {
      sum += dx[t][i] * dx[t][i];
      embedding_columns[i] += dx[t][i] * dx[t][i];
    }
    embedding.push_back(sum);
  }
}

}  // namespace quantfit::test
