// Mixture of experts: rows are sorted by expert, so that each expert's weights meet all of its tokens at
// once.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optimizer/engine/layer.h"

namespace quantfit::engine {
namespace {

// Sorted rows of every expert, tokens in order within each.
void sort_rows(std::size_t tokens, std::size_t experts, std::size_t used, ExpertRouting& routing) {
  const std::size_t rows = tokens * used;
  routing.begin.assign(experts + 1, 0);
  for (std::size_t i = 0; i < rows; ++i) ++routing.begin[routing.selected[i] + 1];
  for (std::size_t e = 0; e < experts; ++e) routing.begin[e + 1] += routing.begin[e];
  std::vector<std::uint32_t> next(routing.begin.begin(), routing.begin.end() - 1);
  routing.row_of.resize(rows);
  routing.token_of.resize(rows);
  routing.slot_of.resize(rows);
  for (std::size_t i = 0; i < rows; ++i) {
    const std::uint32_t row = next[routing.selected[i]]++;
    routing.row_of[i] = row;
    routing.token_of[row] = static_cast<std::uint32_t>(i / used);
    routing.slot_of[row] = static_cast<std::uint32_t>(i);
  }
}

}  // namespace

kernels::RouterShape LayerRunner::router_shape(const ExpertsGraph& e) {
  kernels::RouterShape shape;
  shape.experts = e.count;
  shape.used = e.used;
  shape.groups = e.groups;
  shape.groups_used = e.groups_used;
  shape.select_by_logit = e.choose_by_logits;
  shape.normalize = e.normalize;
  shape.scale = e.weight_scale;
  shape.selection_bias = parameters_.values(e.choice_bias);
  switch (e.score) {
    case RouterScore::Softmax:
      shape.gating = kernels::Gating::Softmax;
      break;
    case RouterScore::Sigmoid:
      shape.gating = kernels::Gating::Sigmoid;
      break;
    case RouterScore::SoftmaxOfSelected:
      shape.gating = kernels::Gating::SoftmaxOfSelected;
      break;
    case RouterScore::SqrtSoftplus:
      shape.gating = kernels::Gating::SqrtSoftplus;
      break;
  }
  return shape;
}

Result<void> LayerRunner::experts(const Batch& batch, MatrixView<const float> layer_input,
                                  MatrixView<const float> middle, MatrixView<const float> ffn_input) {
  const ExpertsGraph& e = layer_->experts;
  const std::size_t tokens = batch.rows();

  // Routing.
  MatrixView<const float> router_input = e.router_reads_layer_input ? layer_input : ffn_input;
  InputGroup router_group = e.router_reads_layer_input || e.router_input_scale != nullptr || e.pre_norm
                                ? InputGroup::Router
                                : InputGroup::Ffn;
  if (e.router_input_scale != nullptr) {
    const MatrixView<float> normed = buffers_[Buffer::RouterInput];
    const float* scale = parameters_.values(e.router_input_scale);
    const float shrink = 1 / std::sqrt(static_cast<float>(graph_->width));
    const kernels::NormShape shape{1, graph_->width, graph_->width, 0, e.router_norm_epsilon};
    workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        kernels_->rms_norm(shape, middle.row(t), nullptr, nullptr, normed.row(t), nullptr);
        kernels_->scale(normed.row(t), shrink, normed.columns, normed.row(t));
        kernels_->multiply(normed.row(t), scale, normed.columns, normed.row(t));
      }
    });
    router_input = constant(normed);
  }
  const MatrixView<float> logits = buffers_[Buffer::RouterLogits];
  QF_TRY(multiply(e.router, router_group, router_input, logits));
  const kernels::RouterShape shape = router_shape(e);
  const MatrixView<float> probabilities = buffers_[Buffer::RouterProbabilities];
  const MatrixView<float> weights = buffers_[Buffer::RouterWeights];
  routing_.selected.resize(tokens * e.used);
  workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t)
      kernels_->route(shape, logits.row(t), routing_.selected.data() + t * e.used, weights.row(t),
                      probabilities.row(t));
  });
  for (const std::uint32_t chosen : routing_.selected)
    if (chosen >= e.count)
      return fail(ErrorCode::Malformed, "block {}: the router's outputs are not finite", layer_->index);
  sort_rows(tokens, e.count, e.used, routing_);

  // Inputs, gathered.
  MatrixView<const float> source = ffn_input;
  InputGroup source_group = InputGroup::Ffn;
  if (e.pre_norm) {
    norm_rows(e.pre_norm, middle, buffers_[Buffer::ExpertSource]);
    source = constant(buffers_[Buffer::ExpertSource]);
    source_group = InputGroup::Experts;
  }
  if (e.latent_down) {
    QF_TRY(multiply(e.latent_down, source_group, source, buffers_[Buffer::ExpertLatent]));
    source = constant(buffers_[Buffer::ExpertLatent]);
  }
  const MatrixView<float> gathered = buffers_[Buffer::ExpertInput];
  workers_->for_rows(gathered.rows, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t row = first; row < first + count; ++row) {
      const float* from = source.row(routing_.token_of[row]);
      if (e.weigh_input) {
        const std::uint32_t slot = routing_.slot_of[row];
        kernels_->scale(from, weights.row(slot / e.used)[slot % e.used], gathered.columns, gathered.row(row));
      } else {
        std::memcpy(gathered.row(row), from, gathered.columns * sizeof(float));
      }
    }
  });

  // All experts at once.
  const MatrixView<float> gate_up = buffers_[Buffer::ExpertGateUp];
  const MatrixView<float> hidden = buffers_[Buffer::ExpertHidden];
  const MatrixView<float> outputs = buffers_[Buffer::ExpertOutput];
  std::vector<ProductTask> tasks;
  for (const Projection& p : e.experts.gate_up) {
    for (std::uint32_t expert = 0; expert < e.count; ++expert) {
      const std::size_t first = routing_.begin[expert], rows = routing_.begin[expert + 1] - first;
      if (rows == 0) continue;
      tasks.push_back({&p.matrix, expert, 0, rows_of(constant(gathered), first, rows),
                       columns_of(rows_of(gate_up, first, rows), p.offset, p.matrix.rows),
                       InputGroup::Experts});
    }
  }
  QF_TRY(products(tasks));
  activate(e.experts, constant(gate_up), hidden);
  tasks.clear();
  for (std::uint32_t expert = 0; expert < e.count; ++expert) {
    const std::size_t first = routing_.begin[expert], rows = routing_.begin[expert + 1] - first;
    if (rows == 0) continue;
    tasks.push_back({&e.experts.down, expert, 0, rows_of(constant(hidden), first, rows),
                     rows_of(outputs, first, rows), InputGroup::ExpertHidden});
  }
  QF_TRY(products(tasks));

  // Weighted sums, in the order of slots.
  const MatrixView<float> sum = buffers_[e.latent_up ? Buffer::ExpertLatentSum : Buffer::ExpertSum];
  workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
    for (std::size_t t = first; t < first + count; ++t) {
      for (std::size_t slot = 0; slot < e.used; ++slot) {
        const float* from = outputs.row(routing_.row_of[t * e.used + slot]);
        const float weight = e.weigh_input ? 1 : weights.row(t)[slot];
        if (slot == 0)
          kernels_->scale(from, weight, sum.columns, sum.row(t));
        else
          kernels_->add_scaled(from, weight, sum.columns, sum.row(t));
      }
    }
  });
  const MatrixView<float> out = buffers_[Buffer::ExpertSum];
  if (e.latent_up) QF_TRY(multiply(e.latent_up, InputGroup::ExpertLatentSum, constant(sum), out));

  if (e.shared) {
    const MatrixView<float> shared = buffers_[Buffer::SharedOutput];
    QF_TRY(ffn(e.shared, InputGroup::Ffn, InputGroup::SharedHidden, ffn_input, buffers_[Buffer::SharedGateUp],
               buffers_[Buffer::SharedHidden], shared));
    const MatrixView<float> gate = buffers_[Buffer::SharedGate];
    if (e.shared_gate) QF_TRY(multiply(e.shared_gate, InputGroup::Ffn, ffn_input, gate));
    workers_->for_rows(tokens, kRowPiece, [&](std::size_t first, std::size_t count, float*) {
      for (std::size_t t = first; t < first + count; ++t) {
        float factor = 1;
        if (e.shared_gate) {
          kernels_->activate[static_cast<std::size_t>(kernels::Activation::Sigmoid)](gate.row(t), 1,
                                                                                     gate.row(t));
          factor = *gate.row(t);
        }
        kernels_->add_scaled(shared.row(t), factor, out.columns, out.row(t));
        if (e.sum_scale != 1) kernels_->scale(out.row(t), e.sum_scale, out.columns, out.row(t));
      }
    });
  }
  if (e.post_norm) norm_rows(e.post_norm, constant(out), buffers_[Buffer::ExpertNormed]);
  return outcome::success();
}

}  // namespace quantfit::engine
