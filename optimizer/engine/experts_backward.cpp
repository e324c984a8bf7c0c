// Gradients of a mixture of experts. The choice of experts is constant; their weights are not.

#include <algorithm>
#include <cmath>

#include "optimizer/engine/layer_backward.h"

namespace quantfit::engine {

Result<void> LayerBackward::experts_backward(const Batch& batch, MatrixView<const float> layer_input,
                                             MatrixView<const float> middle,
                                             MatrixView<const float> ffn_input, MatrixView<float> dout,
                                             MatrixView<float> dlayer_input, MatrixView<float> dmiddle,
                                             MatrixView<float> dffn_input) {
  const ExpertsGraph& e = layer_->experts;
  const std::size_t tokens = batch.rows();
  if (e.post_norm)
    norm_backward(e.post_norm, 1, constant(buffers_[Buffer::ExpertSum]), constant(dout), dout, false);

  // Shared experts: out = (routed + factor * shared) * sum_scale.
  if (e.shared) {
    scale_rows(dout, e.sum_scale);
    const MatrixView<float> shared = buffers_[Buffer::SharedOutput];
    const MatrixView<float> dshared = gradients_[Buffer::SharedOutput];
    const MatrixView<float> gate = buffers_[Buffer::SharedGate];
    const MatrixView<float> dgate = gradients_[Buffer::SharedGate];
    workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        float factor = 1;
        if (e.shared_gate) {
          factor = *gate.row(t);
          *dgate.row(t) = kernels_->dot(dout.row(t), shared.row(t), shared.columns) * (factor * (1 - factor));
        }
        kernels_->scale(dout.row(t), factor, dshared.columns, dshared.row(t));
      }
    });
    QF_TRY(ffn_backward(e.shared, InputGroup::Ffn, InputGroup::SharedHidden, ffn_input, Buffer::SharedGateUp,
                        Buffer::SharedHidden, dshared, dffn_input));
    if (e.shared_gate)
      QF_TRY(multiply_backward(e.shared_gate, InputGroup::Ffn, ffn_input, dgate, dffn_input, true));
  }
  MatrixView<float> dsum = dout;
  if (e.latent_up) {
    dsum = gradients_[Buffer::ExpertLatentSum];
    QF_TRY(multiply_backward(e.latent_up, InputGroup::ExpertLatentSum,
                             constant(buffers_[Buffer::ExpertLatentSum]), dout, dsum, false));
  }

  // Weighted sums.
  const MatrixView<float> weights = buffers_[Buffer::RouterWeights];
  const MatrixView<float> dweights = gradients_[Buffer::RouterWeights];
  const MatrixView<float> outputs = buffers_[Buffer::ExpertOutput];
  const MatrixView<float> doutputs = gradients_[Buffer::ExpertOutput];
  workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      for (std::size_t slot = 0; slot < e.used; ++slot) {
        const std::size_t row = routing_.row_of[t * e.used + slot];
        kernels_->scale(dsum.row(t), e.weigh_input ? 1 : weights.row(t)[slot], doutputs.columns,
                        doutputs.row(row));
        if (!e.weigh_input)
          dweights.row(t)[slot] = kernels_->dot(dsum.row(t), outputs.row(row), outputs.columns);
      }
    }
  });

  // All experts at once.
  const MatrixView<float> gathered = buffers_[Buffer::ExpertInput];
  const MatrixView<float> gate_up = buffers_[Buffer::ExpertGateUp];
  const MatrixView<float> hidden = buffers_[Buffer::ExpertHidden];
  const MatrixView<float> dgathered = gradients_[Buffer::ExpertInput];
  const MatrixView<float> dgate_up = gradients_[Buffer::ExpertGateUp];
  const MatrixView<float> dhidden = gradients_[Buffer::ExpertHidden];
  const std::span<const std::uint32_t> token_of(routing_.token_of);
  const auto every_expert = [&](const Matrix& matrix, InputGroup group, MatrixView<float> x,
                                MatrixView<float> dy, MatrixView<float> dx, bool add) {
    std::vector<GradientTask> tasks;
    for (std::uint32_t expert = 0; expert < e.count; ++expert) {
      const std::size_t first = routing_.begin[expert], rows = routing_.begin[expert + 1] - first;
      if (rows == 0) continue;
      tasks.push_back({&matrix, expert, 0, rows_of(constant(x), first, rows), rows_of(dy, first, rows),
                       rows_of(dx, first, rows), group, add, token_of.subspan(first, rows)});
    }
    return products_backward(tasks);
  };
  QF_TRY(every_expert(e.experts.down, InputGroup::ExpertHidden, hidden, doutputs, dhidden, false));
  activate_backward(e.experts, constant(gate_up), constant(dhidden), dgate_up);
  bool add = false;
  for (const Projection& p : e.experts.gate_up) {
    QF_TRY(every_expert(p.matrix, InputGroup::Experts, gathered,
                        columns_of(dgate_up, p.offset, p.matrix.rows), dgathered, add));
    add = true;
  }

  // Back to the tokens, in the order of slots.
  const MatrixView<const float> source = e.latent_down ? constant(buffers_[Buffer::ExpertLatent])
                                         : e.pre_norm  ? constant(buffers_[Buffer::ExpertSource])
                                                       : ffn_input;
  const MatrixView<float> dsource =
      e.latent_down ? gradients_[Buffer::ExpertLatent] : gradients_[Buffer::ExpertSource];
  workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      for (std::size_t slot = 0; slot < e.used; ++slot) {
        const float* from = dgathered.row(routing_.row_of[t * e.used + slot]);
        const float weight = e.weigh_input ? weights.row(t)[slot] : 1;
        if (slot == 0)
          kernels_->scale(from, weight, dsource.columns, dsource.row(t));
        else
          kernels_->add_scaled(from, weight, dsource.columns, dsource.row(t));
        if (e.weigh_input) dweights.row(t)[slot] = kernels_->dot(source.row(t), from, dsource.columns);
      }
    }
  });
  MatrixView<float> dinput = dsource;
  if (e.latent_down) {
    dinput = gradients_[Buffer::ExpertSource];
    QF_TRY(multiply_backward(e.latent_down, e.pre_norm ? InputGroup::Experts : InputGroup::Ffn,
                             e.pre_norm ? constant(buffers_[Buffer::ExpertSource]) : ffn_input, dsource,
                             dinput, false));
  }
  if (e.pre_norm)
    norm_backward(e.pre_norm, 1, middle, constant(dinput), dmiddle, true);
  else
    add_rows(constant(dinput), 1, dffn_input);

  // The router.
  const kernels::RouterShape shape = router_shape(e);
  const MatrixView<float> logits = buffers_[Buffer::RouterLogits];
  const MatrixView<float> probabilities = buffers_[Buffer::RouterProbabilities];
  const MatrixView<float> dlogits = gradients_[Buffer::RouterLogits];
  workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      kernels_->route_backward(shape, logits.row(t), routing_.selected.data() + t * e.used,
                               probabilities.row(t), dweights.row(t), dlogits.row(t));
    }
  });
  if (choice_error_ > 0 && e.used < e.count) {
    add_choice_errors(batch, shape);
    if (back_observer_ != nullptr)
      QF_TRY(back_observer_->choices(layer_index_, batch.first_token, choice_costs_));
  }
  if (e.router_input_scale != nullptr) {
    // The router read rms(middle) * shrink * scale.
    const MatrixView<float> dnormed = gradients_[Buffer::RouterInput];
    QF_TRY(multiply_backward(e.router, InputGroup::Router, constant(buffers_[Buffer::RouterInput]), dlogits,
                             dnormed, false));
    const float* scale = parameters_.values(e.router_input_scale);
    const float shrink = 1 / std::sqrt(static_cast<float>(graph_->width));
    workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        kernels_->multiply(dnormed.row(t), scale, dnormed.columns, dnormed.row(t));
        kernels_->scale(dnormed.row(t), shrink, dnormed.columns, dnormed.row(t));
      }
    });
    norm_backward(Norm{.kind = NormKind::Rms, .epsilon = e.router_norm_epsilon, .size = graph_->width}, 1,
                  middle, constant(dnormed), dmiddle, true);
    return outcome::success();
  }
  if (e.router_reads_layer_input)
    return multiply_backward(e.router, InputGroup::Router, layer_input, dlogits, dlayer_input, true);
  return multiply_backward(e.router, e.pre_norm ? InputGroup::Router : InputGroup::Ffn, ffn_input, dlogits,
                           dffn_input, true);
}

void LayerBackward::add_choice_errors(const Batch& batch, const kernels::RouterShape& shape) {
  const MatrixView<float> logits = buffers_[Buffer::RouterLogits];
  const MatrixView<float> probabilities = buffers_[Buffer::RouterProbabilities];
  const MatrixView<float> weights = buffers_[Buffer::RouterWeights];
  const MatrixView<float> dweights = gradients_[Buffer::RouterWeights];
  const MatrixView<float> dlogits = gradients_[Buffer::RouterLogits];
  const std::size_t n = shape.experts;
  // Without a bias the order of scores is that of logits.
  const bool by_logit = shape.select_by_logit || shape.selection_bias == nullptr;
  choice_costs_.assign(batch.rows(), 0.0);
  workers_->for_rows(batch.rows(), kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      const float* z = logits.row(t);
      const float* p = probabilities.row(t);
      const std::uint32_t* chosen = routing_.selected.data() + t * shape.used;
      const auto score = [&](std::size_t i) {
        const double own = by_logit ? z[i] : p[i];
        return shape.selection_bias == nullptr ? own : own + static_cast<double>(shape.selection_bias[i]);
      };
      const std::size_t a = chosen[shape.used - 1];
      std::size_t b = n;
      double sum = 0, squares = 0;
      for (std::size_t i = 0; i < n; ++i) {
        sum += score(i);
        squares += score(i) * score(i);
        // Experts of closed groups may have better scores: they are no candidates.
        if (std::find(chosen, chosen + shape.used, i) != chosen + shape.used || score(i) > score(a)) continue;
        if (b == n || score(i) > score(b)) b = i;
      }
      if (b == n) continue;
      const auto experts = static_cast<double>(n);
      const double spread = std::sqrt(std::max(0.0, squares / experts - sum * sum / experts / experts));
      const double sigma = static_cast<double>(choice_error_) * spread;
      if (!(sigma > 0)) continue;
      const double u = (score(a) - score(b)) / sigma;
      const double lost =
          static_cast<double>(weights.row(t)[shape.used - 1]) * dweights.row(t)[shape.used - 1];
      // phi(u) u / sigma^2, with phi the normal density.
      const double density = 0.3989422804014327 * std::exp(-0.5 * u * u);
      const double curvature = density * u / (sigma * sigma);
      // Margins are positive: half of a normal kernel around zero, as wide as choice_error.
      choice_costs_[t] = lost * lost * 2 * density / static_cast<double>(choice_error_);
      const double size = std::abs(lost) * std::sqrt(curvature);
      const std::uint64_t key = choice_seed_ ^ (0x5851F42D4C957F2DULL * (std::uint64_t{layer_index_} + 1));
      const double signed_size = label_draw(key, batch.first_token + t) < 0.5 ? -size : size;
      const auto slope = [&](std::size_t i) -> double {
        if (by_logit) return 1;
        const double own = p[i];
        switch (shape.gating) {
          case kernels::Gating::Softmax:
          case kernels::Gating::Sigmoid:
            return own * (1 - own);
          case kernels::Gating::SoftmaxOfSelected:
            return 1;
          case kernels::Gating::SqrtSoftplus:
            return own > 0 ? (1 - std::exp(-own * own)) / (2 * own) : 0;
        }
        return 1;
      };
      dlogits.row(t)[a] += static_cast<float>(signed_size * slope(a));
      dlogits.row(t)[b] -= static_cast<float>(signed_size * slope(b));
    }
  });
}

}  // namespace quantfit::engine
