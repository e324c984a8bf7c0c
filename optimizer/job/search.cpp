#include "optimizer/job/search.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "optimizer/allocation/two_budgets.h"
#include "optimizer/planning/knapsack.h"
#include "optimizer/planning/knapsack_memory.h"

namespace quantfit::optimizer {
namespace {

std::uint64_t minus(std::uint64_t a, std::uint64_t b) {
  return a > b ? a - b : 0;
}

// The tensors of one target by the memories that they count in. Tied tensors stay together.
struct Partition {
  std::vector<std::uint32_t> own[2];     // in this memory alone, all of their group
  std::vector<std::uint32_t> shared[2];  // of groups in both memories: the members in this one
};

Partition partition(std::span<const TensorCandidates> tensors, std::span<const MemoryBudget> memories) {
  std::vector<std::uint8_t> in(tensors.size());  // bit m: counts in memory m
  for (std::size_t m = 0; m < memories.size(); ++m)
    for (const std::uint32_t i : memories[m].tensors) in[i] |= static_cast<std::uint8_t>(1U << m);
  std::unordered_map<std::string_view, std::uint8_t> group_in;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    if (!tensors[i].tie_group.empty()) group_in[tensors[i].tie_group] |= in[i];
  Partition parts;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    const std::uint8_t all = tensors[i].tie_group.empty() ? in[i] : group_in[tensors[i].tie_group];
    for (unsigned m = 0; m < memories.size(); ++m)
      if ((in[i] >> m & 1U) != 0) (all == 3 ? parts.shared[m] : parts.own[m]).push_back(i);
  }
  return parts;
}

// Everything a search over one or two memories needs. Costs of tensors that count in both are in the first
// memory's part.
struct Problem {
  std::array<std::shared_ptr<const Knapsack>, 2> own = {std::make_shared<const Knapsack>(),
                                                        std::make_shared<const Knapsack>()};
  std::array<Knapsack, 2> shared;

  [[nodiscard]] std::uint64_t fixed_bytes(std::size_t m) const {
    return own[m]->fixed_bytes + shared[m].fixed_bytes;
  }
  [[nodiscard]] double fixed_cost() const {
    return own[0]->fixed_cost + own[1]->fixed_cost + shared[0].fixed_cost + shared[1].fixed_cost;
  }
  [[nodiscard]] std::uint64_t smallest_bytes(std::size_t m) const {
    return own[m]->smallest_bytes + shared[m].smallest_bytes;
  }
};

// Either memory may be without ruinous formats or with them; shared tensors only follow when both are
// without.
Result<Problem> make_problem(const PreparedJob& job, const JobRequest& request, const Budget& budget,
                             const Partition& parts, const bool (&with_ruinous)[2]) {
  Problem problem;
  std::vector<double> counted = job.sensitivity;
  KnapsackOptions shared_options = knapsack_options(job, request, 1);
  for (std::size_t m = 0; m < budget.memories.size(); ++m) {
    KnapsackOptions options = knapsack_options(job, request, budget.memories[m].alignment);
    if (with_ruinous[m]) options.max_nmse = 0;
    if (with_ruinous[0] || with_ruinous[1]) shared_options.max_nmse = 0;
    shared_options.alignment = options.alignment;
    const auto make = [&] {
      return make_knapsack(job.candidates, job.measured.measurements, job.sensitivity, options, parts.own[m]);
    };
    if (job.knapsacks) {
      QF_ASSIGN(problem.own[m], job.knapsacks->get(options, parts.own[m], make));
    } else {
      QF_ASSIGN(Knapsack own, make());
      problem.own[m] = std::make_shared<const Knapsack>(std::move(own));
    }
    QF_ASSIGN(problem.shared[m], make_knapsack(job.candidates, job.measured.measurements, counted,
                                               shared_options, parts.shared[m]));
    for (const std::uint32_t i : parts.shared[m]) {
      counted[i] = 0;
      if (!shared_options.read_share.empty()) shared_options.read_share[i] = 0;
    }
  }
  return problem;
}

// Tied groups and copies as classes over both memories: the parts of either by name and format.
std::vector<SharedClass> shared_classes(const Problem& problem) {
  std::vector<SharedClass> classes;
  std::unordered_map<std::string_view, const CandidateClass*> second;
  for (const CandidateClass& group : problem.shared[1].classes) second.emplace(group.name, &group);
  for (const CandidateClass& group : problem.shared[0].classes) {
    SharedClass both{group.name, {}};
    const auto other = second.find(group.name);
    for (const Candidate& candidate : group.candidates) {
      SharedCandidate sum{candidate.format, candidate.bytes, 0, candidate.cost};
      if (other != second.end()) {
        const auto same = std::ranges::find(other->second->candidates, candidate.format, &Candidate::format);
        if (same == other->second->candidates.end()) continue;
        sum.second_bytes = same->bytes;
        sum.cost += same->cost;
      }
      both.candidates.push_back(sum);
    }
    classes.push_back(std::move(both));
  }
  return classes;
}

// Enters formats of shared classes, chosen by name, into a recipe.
void apply_shared(const Problem& problem, std::span<const SharedClass> classes,
                  std::span<const std::uint32_t> chosen, Recipe& recipe) {
  std::unordered_map<std::string_view, Format> format_of;
  for (std::size_t c = 0; c < classes.size(); ++c)
    format_of.emplace(classes[c].name, classes[c].candidates[chosen[c]].format);
  for (const Knapsack& part : problem.shared)
    for (std::size_t c = 0; c < part.classes.size(); ++c)
      for (const std::uint32_t member : part.members[c])
        recipe.entries[member].format = format_of.at(part.classes[c].name);
}

void add_to_proof(const Allocation& allocation, Proof& proof) {
  proof.why = worse(proof.why, allocation.why);
  proof.objective += allocation.objective;
  proof.lower_bound += allocation.lower_bound;
  proof.cost_unit = std::max(proof.cost_unit, allocation.cost_unit);
  proof.states += allocation.states;
  proof.seconds += allocation.seconds;
  proof.of_full_ones_only = proof.of_full_ones_only || allocation.least_bytes != 0;
}

// The best of classes for a budget of which `spent` bytes are taken already, or the best that uses the share
// wanted.
Result<FilledAllocation> allocate_part(std::span<const CandidateClass> classes, std::uint64_t budget,
                                       std::uint64_t spent, const JobRequest& request,
                                       const AllocatorLimits& limits, std::optional<Fill>& fill,
                                       std::vector<std::string>& sentences) {
  FilledAllocation part;
  if (!request.min_fill) {
    QF_ASSIGN(part.answer, allocate(classes, minus(budget, spent), limits));
    part.unfilled = part.answer;
    return part;
  }
  const std::uint64_t wanted = share_of(budget, request.min_fill->share);
  QF_ASSIGN(part, allocate_filled(classes, minus(wanted, spent), minus(budget, spent), limits));
  if (part.answer.why == Termination::BudgetTooSmall) return part;
  fill.emplace();
  fill->wanted_bytes = wanted;
  fill->least_bytes = part.answer.least_bytes == 0 ? 0 : spent + part.answer.least_bytes;
  fill->unfilled_bytes = spent + part.unfilled.bytes;
  fill->met = part.in_window;
  fill->proven_impossible = part.proven_empty;
  if (!fill->met)
    sentences.push_back(fmt::format(
        "{} {} of {} bytes or more; {}",
        part.proven_empty ? "there is no recipe that uses" : "none was found that uses",
        request.min_fill->text, budget,
        fill->least_bytes == 0
            ? std::string("this is the optimum for the budget alone")
            : fmt::format("this is the best found of those with {} bytes or more", fill->least_bytes)));
  return part;
}

bool has_better(const CandidateClass& group, std::uint32_t chosen) {
  return group.candidates[chosen].cost > std::ranges::min(group.candidates, {}, &Candidate::cost).cost;
}

// Every class has its cheapest candidate.
bool all_at_their_best(std::span<const CandidateClass> classes, const Allocation& allocation) {
  for (std::size_t c = 0; c < classes.size(); ++c)
    if (has_better(classes[c], allocation.index[c])) return false;
  return true;
}

// For classes without a budget of their own: the least of cost and price of bytes.
Allocation at_price(std::span<const CandidateClass> classes, double price) {
  Allocation allocation;
  for (const CandidateClass& group : classes) {
    const auto best = std::ranges::min_element(group.candidates, {}, [&](const Candidate& candidate) {
      return candidate.cost + price * static_cast<double>(candidate.bytes);
    });
    allocation.choice.push_back(best->format);
    allocation.index.push_back(static_cast<std::uint32_t>(best - group.candidates.begin()));
    allocation.bytes += best->bytes;
    allocation.objective += best->cost;
  }
  allocation.lower_bound = allocation.objective;
  allocation.multiplier = price;
  return allocation;
}

std::string best_already(const Budget& budget, std::size_t m) {
  const BudgetKind kind = budget.memories[m].kind;
  const std::string_view where = budget.memories.size() == 1 ? ""
                                 : kind == BudgetKind::Gpu   ? " on the GPU"
                                                             : " in RAM";
  return fmt::format("every tensor{} has its best format already; a larger budget changes nothing", where);
}

// The search over one or two memories, part by part.
class Searcher {
 public:
  Searcher(const PreparedJob& job, const JobRequest& request, const Budget& budget,
           const AllocatorLimits& limits)
      : job_(job), request_(request), budget_(budget), limits_(limits) {
    found_.recipe = found_.unfilled = smallest_recipe(job.candidates);
    found_.multipliers.resize(budget.memories.size());
    found_.fills.resize(budget.memories.size());
  }

  Result<Found> run() {
    QF_TRY(set_up());
    found_.proof.objective = found_.proof.lower_bound = problem_.fixed_cost();
    const bool second_limited = budget_.memories.size() > 1 && budget_.memories[1].bytes;
    if (second_limited && !shared_.empty()) QF_TRY(choose_shared());
    if (!second_limited) join_shared();
    QF_TRY(fill_memory(0));
    if (second_limited)
      QF_TRY(fill_memory(1));
    else if (budget_.memories.size() > 1)
      price_memory();
    if (joint_) {  // the certificate of the joint search; the parts only repeat its choice
      found_.proof.why = worse(found_.proof.why, joint_->why);
      const double bound = problem_.fixed_cost() + joint_->lower_bound;
      found_.proof.lower_bound = std::min(bound, found_.proof.objective);
      if (!request_.min_fill) {
        found_.proof.states = 0;
        found_.proof.seconds = 0;
      }
      found_.proof.states += joint_->states;
      found_.proof.seconds += joint_->seconds;
    }
    describe_limits();
    return std::move(found_);
  }

 private:
  [[nodiscard]] std::uint64_t budget_of(std::size_t m) const {
    return minus(budget_.memories[m].bytes.value_or(UINT64_MAX), budget_.memories[m].overhead_bytes);
  }

  // Ruinous formats are left out of a memory unless its budget cannot be met otherwise.
  Result<void> set_up() {
    const Partition parts = partition(job_.candidates, budget_.memories);
    bool with_ruinous[2] = {request_.max_nmse <= 0, request_.max_nmse <= 0};
    while (true) {
      QF_ASSIGN(problem_, make_problem(job_, request_, budget_, parts, with_ruinous));
      bool again = false;
      for (std::size_t m = 0; m < budget_.memories.size(); ++m)
        if (!with_ruinous[m] && problem_.smallest_bytes(m) > budget_of(m))
          with_ruinous[m] = again = found_.ruinous = true;
      if (!again) break;
    }
    if (found_.ruinous) found_.limits.push_back("the budget forces formats that ruin some tensors");
    shared_ = shared_classes(problem_);
    for (std::size_t m = 0; m < 2; ++m) spent_[m] = problem_.fixed_bytes(m);
    return outcome::success();
  }

  // Formats of what is in both memories, by the search over both.
  Result<void> choose_shared() {
    const TwoBudgets left{minus(budget_of(0), spent_[0]), minus(budget_of(1), spent_[1])};
    QF_ASSIGN(joint_,
              allocate_two(problem_.own[0]->classes, problem_.own[1]->classes, shared_, left, limits_));
    apply_shared(problem_, shared_, joint_->shared, found_.recipe);
    apply_shared(problem_, shared_, joint_->shared, found_.unfilled);
    spent_[0] += joint_->shared_bytes.first;
    spent_[1] += joint_->shared_bytes.second;
    for (std::size_t c = 0; c < shared_.size(); ++c)
      found_.proof.objective += shared_[c].candidates[joint_->shared[c]].cost;
    return outcome::success();
  }

  // Without a second budget, what is in both memories is charged to the first alone.
  void join_shared() {
    if (shared_.empty()) return;
    Knapsack joined = *problem_.own[0];
    for (const SharedClass& both : shared_) {
      CandidateClass group{both.name, {}};
      for (const SharedCandidate& candidate : both.candidates)
        group.candidates.push_back({candidate.format, candidate.first_bytes, candidate.cost});
      joined.classes.push_back(std::move(group));
      joined.members.emplace_back();
    }
    problem_.own[0] = std::make_shared<const Knapsack>(std::move(joined));
  }

  void enter(std::size_t m, const Allocation& allocation, Recipe& recipe) const {
    apply(*problem_.own[m], allocation, recipe);
    // Shared classes that were joined stand at the end.
    if (m == 0 && !joint_ && !shared_.empty()) {
      const std::size_t first = problem_.own[0]->classes.size() - shared_.size();
      const std::span<const std::uint32_t> chosen(allocation.index);
      apply_shared(problem_, shared_, chosen.subspan(first), recipe);
    }
  }

  Result<void> fill_memory(std::size_t m) {
    const std::vector<CandidateClass>& classes = problem_.own[m]->classes;
    if (!budget_.memories[m].bytes) {  // RAM alone, without a limit
      const Allocation best = at_price(classes, 0);
      enter(m, best, found_.recipe);
      enter(m, best, found_.unfilled);
      add_to_proof(best, found_.proof);
      return outcome::success();
    }
    if (joint_ && !request_.min_fill) {  // solved already
      const Allocation& part = m == 0 ? joint_->first : joint_->second;
      take(m, part, part);
      return outcome::success();
    }
    QF_ASSIGN(const FilledAllocation part,
              allocate_part(classes, budget_of(m) + budget_.memories[m].overhead_bytes,
                            spent_[m] + budget_.memories[m].overhead_bytes, request_, limits_,
                            found_.fills[m], found_.limits));
    take(m, part.answer, part.unfilled);
    return outcome::success();
  }

  void take(std::size_t m, const Allocation& answer, const Allocation& unfilled) {
    enter(m, answer, found_.recipe);
    enter(m, unfilled, found_.unfilled);
    add_to_proof(answer, found_.proof);
    found_.multipliers[m] = unfilled.multiplier;
    if (spent_[m] + unfilled.bytes < budget_of(m) && all_at_their_best(problem_.own[m]->classes, unfilled))
      found_.limits.push_back(best_already(budget_, m));
  }

  // RAM without a limit.
  void price_memory() {
    const std::vector<CandidateClass>& classes = problem_.own[1]->classes;
    const double price = found_.multipliers[0];
    const Allocation chosen = at_price(classes, price);
    apply(*problem_.own[1], chosen, found_.recipe);
    apply(*problem_.own[1], chosen, found_.unfilled);
    add_to_proof(chosen, found_.proof);
    found_.multipliers[1] = price;
    if (classes.empty()) return;
    found_.notes.push_back(
        all_at_their_best(classes, chosen)
            ? fmt::format("RAM has no limit: all {} tensors there have their best format, whatever its size; "
                          "a budget for RAM makes them smaller",
                          classes.size())
            : fmt::format("RAM has no limit: {} tensors there are as large as is worth it at the GPU's price "
                          "per byte; a budget for RAM makes them smaller",
                          classes.size()));
  }

  void describe_limits() {
    const Proof& proof = found_.proof;
    if (proof.why == Termination::TimeLimit)
      found_.limits.push_back(
          fmt::format("the search was stopped after {:g} s: a faster or less busy machine may find a better "
                      "recipe, so other machines may answer differently",
                      limits_.max_seconds));
    if (proof.why == Termination::StateLimit)
      found_.limits.push_back(
          "the search was stopped at its limit of memory; the answer is the same everywhere");
  }

  const PreparedJob& job_;
  const JobRequest& request_;
  const Budget& budget_;
  const AllocatorLimits& limits_;
  Problem problem_;
  std::vector<SharedClass> shared_;
  std::uint64_t spent_[2] = {};  // by tensors without a choice and shared ones
  std::optional<TwoBudgetAllocation> joint_;
  Found found_;
};

}  // namespace

Result<Found> search(const PreparedJob& job, const JobRequest& request, const Budget& budget,
                     const AllocatorLimits& limits) {
  return Searcher(job, request, budget, limits).run();
}

}  // namespace quantfit::optimizer
