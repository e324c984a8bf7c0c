#include "tests/client/llama_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/gguf_writer.h"
#include "tests/support/reference_library.h"
#include "tests/support/test_paths.h"

namespace quantfit::test {
namespace {

// llama.cpp passes its parameter structures by value, and they grow from release to release. On Linux for
// x86-64 a structure of more than 16 bytes is returned through a pointer that the caller supplies as a hidden
// first argument, and passed as a copy on the stack from which the callee reads only the bytes it knows. So a
// structure that is larger than the real one serves for all releases, as long as the fields that are set here
// stay where they are; that is checked against their known defaults and read back from the context.
struct alignas(8) Parameters {
  std::array<std::uint32_t, 512> words;  // 2048 bytes; the largest real one has about 200
};
constexpr std::uint32_t kUntouched = 0xA5C3F00D;
#if defined(__x86_64__) && defined(__linux__)
constexpr bool kKnownCalls = true;
#else
constexpr bool kKnownCalls = false;
#endif

// Words of the context parameters.
constexpr std::size_t kContextTokens = 0;    // n_ctx
constexpr std::size_t kBatchTokens = 1;      // n_batch: most tokens of one decode call
constexpr std::size_t kPhysicalTokens = 2;   // n_ubatch: most tokens of one graph
constexpr std::size_t kSequences = 3;        // n_seq_max
constexpr std::size_t kFlashAttention = 13;  // flash_attn_type: -1 where it can, 0 never
constexpr std::size_t kObserve = 22;         // cb_eval, cb_eval_user_data: two pointers
constexpr std::size_t kKeyType = 26;         // type_k, type_v: ids of formats, F16 by default
constexpr std::size_t kValueType = 27;

// Bytes of the model parameters, in the release that scripts/setup-client installs.
constexpr std::size_t kVocabularyOnly = 72;  // vocab_only: tensors are not looked for

// The tokens of one call; 56 bytes.
struct Batch {
  std::int32_t n_tokens;
  Token* token;
  float* embedding;
  std::int32_t* position;
  std::int32_t* n_sequences;
  std::int32_t** sequences;
  std::int8_t* output;  // nonzero: logits wanted
};
static_assert(sizeof(Batch) == 56);

// An array of ggml's graph, 336 bytes; what is read of it is checked against the library's own functions.
struct NativeTensor {
  std::int32_t type;
  void* buffer;
  std::array<std::int64_t, 4> size;
  std::array<std::size_t, 4> stride;
  std::int32_t operation;
  std::array<std::int32_t, 16> parameters;
  std::int32_t flags;
  std::array<NativeTensor*, 10> sources;
  NativeTensor* view_of;
  std::size_t view_offset;
  void* data;
  std::array<char, 64> name;
  void* extra;
  std::array<char, 8> padding;
};
static_assert(sizeof(NativeTensor) == 336);

struct NativeModel;
struct NativeContext;
struct NativeVocabulary;
struct NativeMemory;

}  // namespace

struct LlamaLibrary::Functions {
  void (*llama_backend_init)();
  void (*llama_log_set)(void (*callback)(int level, const char* text, void* user), void* user);
  void (*ggml_log_set)(void (*callback)(int level, const char* text, void* user), void* user);
  void (*ggml_backend_load_all_from_path)(const char* folder);
  void* (*ggml_backend_load)(const char* path);  // null where that failed
  std::size_t (*ggml_backend_dev_count)();
  const char* (*ggml_get_name)(const NativeTensor* tensor);
  const char* (*ggml_op_desc)(const NativeTensor* tensor);
  void* (*ggml_get_data)(const NativeTensor* tensor);
  std::int64_t (*ggml_nelements)(const NativeTensor* tensor);
  // Parameters come back through the hidden pointer, written here as what it is.
  void* (*llama_model_default_params)(Parameters* out);
  void* (*llama_context_default_params)(Parameters* out);
  NativeModel* (*llama_model_load_from_file)(const char* path, Parameters parameters);
  void (*llama_model_free)(NativeModel* model);
  NativeContext* (*llama_init_from_model)(NativeModel* model, Parameters parameters);
  void (*llama_free)(NativeContext* context);
  const NativeVocabulary* (*llama_model_get_vocab)(const NativeModel* model);
  std::int32_t (*llama_vocab_n_tokens)(const NativeVocabulary* vocabulary);
  bool (*llama_vocab_get_add_bos)(const NativeVocabulary* vocabulary);
  Token (*llama_vocab_bos)(const NativeVocabulary* vocabulary);
  std::int32_t (*llama_tokenize)(const NativeVocabulary* vocabulary, const char* text, std::int32_t length,
                                 Token* tokens, std::int32_t capacity, bool add_special, bool parse_special);
  std::int32_t (*llama_model_desc)(const NativeModel* model, char* out, std::size_t capacity);
  std::uint32_t (*llama_n_ctx)(const NativeContext* context);
  std::uint32_t (*llama_n_batch)(const NativeContext* context);
  std::uint32_t (*llama_n_ubatch)(const NativeContext* context);
  std::uint32_t (*llama_n_seq_max)(const NativeContext* context);
  void (*llama_set_n_threads)(NativeContext* context, std::int32_t threads, std::int32_t batch_threads);
  NativeMemory* (*llama_get_memory)(const NativeContext* context);
  void (*llama_memory_clear)(NativeMemory* memory, bool data);
  Batch (*llama_batch_init)(std::int32_t tokens, std::int32_t embedding, std::int32_t sequences);
  void (*llama_batch_free)(Batch batch);
  std::int32_t (*llama_decode)(NativeContext* context, Batch batch);
  float* (*llama_get_logits_ith)(NativeContext* context, std::int32_t index);
};

namespace {

// Warnings and errors of the libraries since the last collect(); the rest of their log is dropped.
class LibraryLog {
 public:
  static LibraryLog& get() {
    static LibraryLog log;
    return log;
  }
  static void receive(int level, const char* text, void*) {
    LibraryLog& log = get();
    const std::lock_guard lock(log.mutex_);
    constexpr int kWarning = 3, kError = 4, kContinued = 5;
    if (level != kContinued) log.keep_ = level == kWarning || level == kError;
    if (log.keep_ && log.text_.size() < 4096) log.text_ += text;
  }
  std::string collect() {
    const std::lock_guard lock(mutex_);
    std::string text = std::exchange(text_, {});
    std::replace(text.begin(), text.end(), '\n', ' ');
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
  }

 private:
  std::mutex mutex_;
  std::string text_;
  bool keep_ = false;
};

template <class Function>
Result<void> resolve(void* library, const char* symbol, Function& out) {
  out = reinterpret_cast<Function>(dlsym(library, symbol));
  if (out == nullptr) return fail(ErrorCode::Unsupported, "the llama.cpp library has no function {}", symbol);
  return outcome::success();
}

// libllama.v<release>.so or libllama.so.
std::optional<std::filesystem::path> find_llama(const std::filesystem::path& dir) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(dir, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("libllama.") && name.ends_with(".so")) return entry.path();
  }
  return std::nullopt;
}

Result<void> check_layout(const LlamaLibrary::Functions& f) {
  Parameters context;
  context.words.fill(kUntouched);
  f.llama_context_default_params(&context);
  if (context.words[kContextTokens] != 512 || context.words[kBatchTokens] != 2048 ||
      context.words[kPhysicalTokens] != 512 || context.words[kSequences] != 1 ||
      context.words[kFlashAttention] != 0xFFFFFFFFU || context.words[kKeyType] != 1 ||
      context.words[kValueType] != 1 || context.words[kObserve] != 0 || context.words[kObserve + 1] != 0 ||
      context.words[kObserve + 2] != 0 || context.words[kObserve + 3] != 0 ||
      context.words.back() != kUntouched) {
    return fail(ErrorCode::Unsupported, "the llama.cpp library's context parameters have an unknown layout");
  }
  Parameters model;
  model.words.fill(kUntouched);
  f.llama_model_default_params(&model);
  if (model.words.back() != kUntouched) {
    return fail(ErrorCode::Unsupported, "the llama.cpp library's model parameters are larger than expected");
  }
  return outcome::success();
}

}  // namespace

Result<const LlamaLibrary*> LlamaLibrary::load() {
  if (!kKnownCalls)
    return fail(ErrorCode::Unsupported, "the prebuilt llama.cpp libraries are for Linux on x86-64");
  static const Result<LlamaLibrary> instance = []() -> Result<LlamaLibrary> {
    const auto dir = reference_library_dir();
    if (!dir) return fail(ErrorCode::Unsupported, "{}", kReferenceLibraryAbsent);
    const auto file = find_llama(*dir);
    if (!file) return fail(ErrorCode::Unsupported, "no libllama*.so in {}", dir->string());
    // Symbols of libggml are found through the same handle: dlsym searches its dependencies too.
    void* library = dlopen(file->c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
      return fail(ErrorCode::Unsupported, "cannot load {}: {}", file->string(), dlerror());
    auto functions = std::make_shared<Functions>();
#define QF_RESOLVE(name) QF_TRY(resolve(library, #name, functions->name))
    QF_RESOLVE(llama_backend_init);
    QF_RESOLVE(llama_log_set);
    QF_RESOLVE(ggml_log_set);
    QF_RESOLVE(ggml_backend_load_all_from_path);
    QF_RESOLVE(ggml_backend_load);
    QF_RESOLVE(ggml_backend_dev_count);
    QF_RESOLVE(ggml_get_name);
    QF_RESOLVE(ggml_op_desc);
    QF_RESOLVE(ggml_get_data);
    QF_RESOLVE(ggml_nelements);
    QF_RESOLVE(llama_model_default_params);
    QF_RESOLVE(llama_context_default_params);
    QF_RESOLVE(llama_model_load_from_file);
    QF_RESOLVE(llama_model_free);
    QF_RESOLVE(llama_init_from_model);
    QF_RESOLVE(llama_free);
    QF_RESOLVE(llama_model_get_vocab);
    QF_RESOLVE(llama_vocab_n_tokens);
    QF_RESOLVE(llama_vocab_get_add_bos);
    QF_RESOLVE(llama_vocab_bos);
    QF_RESOLVE(llama_tokenize);
    QF_RESOLVE(llama_model_desc);
    QF_RESOLVE(llama_n_ctx);
    QF_RESOLVE(llama_n_batch);
    QF_RESOLVE(llama_n_ubatch);
    QF_RESOLVE(llama_n_seq_max);
    QF_RESOLVE(llama_set_n_threads);
    QF_RESOLVE(llama_get_memory);
    QF_RESOLVE(llama_memory_clear);
    QF_RESOLVE(llama_batch_init);
    QF_RESOLVE(llama_batch_free);
    QF_RESOLVE(llama_decode);
    QF_RESOLVE(llama_get_logits_ith);
#undef QF_RESOLVE
    functions->ggml_log_set(&LibraryLog::receive, nullptr);
    functions->llama_log_set(&LibraryLog::receive, nullptr);
    functions->llama_backend_init();
    if (const char* cpu = std::getenv("QUANTFIT_REFERENCE_CPU"); cpu != nullptr && *cpu != '\0') {
      const std::filesystem::path backend = *dir / fmt::format("libggml-cpu-{}.so", cpu);
      if (functions->ggml_backend_load(backend.c_str()) == nullptr)
        return fail(ErrorCode::Unsupported, "llama.cpp does not load {}", backend.string());
    } else {
      functions->ggml_backend_load_all_from_path(dir->c_str());
    }
    if (functions->ggml_backend_dev_count() == 0) {
      return fail(ErrorCode::Unsupported, "llama.cpp found no CPU backend in {}", dir->string());
    }
    QF_TRY(check_layout(*functions));
    LibraryLog::get().collect();
    return LlamaLibrary(std::move(functions));
  }();
  if (!instance) return instance.error();
  return &instance.value();
}

std::string LlamaLibrary::version() const {
  const auto dir = reference_library_dir();
  const auto file = dir ? find_llama(*dir) : std::nullopt;
  if (!file) return "unknown";
  const std::string stem = file->stem().string();  // libllama.v0.5.0
  return stem.size() > 9 ? stem.substr(9) : "unknown";
}

struct LlamaModel::State {
  const LlamaLibrary::Functions* f = nullptr;
  std::shared_ptr<NativeModel> model;  // shared by the contexts
  int threads = 1;
  NativeContext* context = nullptr;
  const NativeVocabulary* vocabulary = nullptr;
  std::uint32_t context_tokens = 0;
  ClientPrecision precision = ClientPrecision::Default;
  ClientObserver* observer = nullptr;
  bool unknown_tensors = false;  // of another layout than NativeTensor's
  Batch batch{};
  bool has_batch = false;
  std::size_t first = 0;
  std::size_t vocabulary_size = 0;

  [[nodiscard]] Result<void> make_context();
  [[nodiscard]] ClientTensor described(const NativeTensor* tensor);
  // Called by llama.cpp before a node (ask), and after it where that gave true; false ends the run.
  static bool observe(NativeTensor* tensor, bool ask, void* user);
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (has_batch) f->llama_batch_free(batch);
    if (context != nullptr) f->llama_free(context);
  }
};

LlamaModel::LlamaModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
LlamaModel::LlamaModel(LlamaModel&&) noexcept = default;
LlamaModel& LlamaModel::operator=(LlamaModel&&) noexcept = default;
LlamaModel::~LlamaModel() = default;

Result<LlamaModel> LlamaModel::open(const std::filesystem::path& path, std::uint32_t context_tokens,
                                    int threads, ClientPrecision precision, ClientObserver* observer) {
  QF_ASSIGN(const LlamaLibrary* library, LlamaLibrary::load());
  auto state = std::make_unique<State>();
  state->f = &library->functions();
  state->context_tokens = context_tokens;
  state->threads = threads;
  state->precision = precision;
  state->observer = observer;
  LibraryLog::get().collect();
  Parameters parameters{};
  state->f->llama_model_default_params(&parameters);
  NativeModel* model = state->f->llama_model_load_from_file(path.c_str(), parameters);
  if (model == nullptr) {
    return fail(ErrorCode::Malformed, "llama.cpp does not load {}: {}", path.string(),
                LibraryLog::get().collect());
  }
  state->model = {model, state->f->llama_model_free};
  QF_TRY(state->make_context());
  return LlamaModel(std::move(state));
}

Result<LlamaModel> LlamaModel::another_context() const {
  auto state = std::make_unique<State>();
  state->f = state_->f;
  state->model = state_->model;
  state->context_tokens = state_->context_tokens;
  state->threads = state_->threads;
  state->precision = state_->precision;
  QF_TRY(state->make_context());
  return LlamaModel(std::move(state));
}

ClientTensor LlamaModel::State::described(const NativeTensor* tensor) {
  std::int64_t elements = 1;
  for (const std::int64_t size : tensor->size) elements *= size;
  if (f->ggml_get_name(tensor) != tensor->name.data() || f->ggml_get_data(tensor) != tensor->data ||
      f->ggml_nelements(tensor) != elements) {
    unknown_tensors = true;
    return {};
  }
  return {tensor->name.data(), tensor->type, tensor->size, tensor->stride,
          static_cast<const std::byte*>(tensor->data)};
}

bool LlamaModel::State::observe(NativeTensor* tensor, bool ask, void* user) {
  auto& state = *static_cast<State*>(user);
  ClientNode node{state.f->ggml_op_desc(tensor), state.described(tensor), {}};
  for (const NativeTensor* source : tensor->sources)
    if (source != nullptr && !state.unknown_tensors) node.sources.push_back(state.described(source));
  if (state.unknown_tensors) return false;
  if (ask) return state.observer->wants(node);
  state.observer->computed(node);
  return true;
}

Result<void> LlamaModel::State::make_context() {
  Parameters parameters{};
  f->llama_context_default_params(&parameters);
  parameters.words[kContextTokens] = context_tokens;
  parameters.words[kBatchTokens] = context_tokens;
  parameters.words[kPhysicalTokens] = context_tokens;
  if (precision == ClientPrecision::Float32) {
    parameters.words[kFlashAttention] = 0;
    parameters.words[kKeyType] = parameters.words[kValueType] = 0;
  }
  if (observer != nullptr) {
    const auto call = reinterpret_cast<std::uintptr_t>(&State::observe);
    const auto user = reinterpret_cast<std::uintptr_t>(this);
    std::memcpy(parameters.words.data() + kObserve, &call, sizeof(call));
    std::memcpy(parameters.words.data() + kObserve + 2, &user, sizeof(user));
  }
  context = f->llama_init_from_model(model.get(), parameters);
  if (context == nullptr) {
    return fail(ErrorCode::Malformed, "llama.cpp makes no context: {}", LibraryLog::get().collect());
  }
  if (f->llama_n_ctx(context) < context_tokens || f->llama_n_batch(context) != context_tokens ||
      f->llama_n_ubatch(context) != context_tokens || f->llama_n_seq_max(context) != 1) {
    return fail(ErrorCode::Unsupported, "llama.cpp's context does not have the parameters that were set");
  }
  f->llama_set_n_threads(context, threads, threads);
  vocabulary = f->llama_model_get_vocab(model.get());
  vocabulary_size = static_cast<std::size_t>(f->llama_vocab_n_tokens(vocabulary));
  batch = f->llama_batch_init(static_cast<std::int32_t>(context_tokens), 0, 1);
  has_batch = true;
  if (batch.n_tokens != 0 || batch.token == nullptr || batch.embedding != nullptr ||
      batch.position == nullptr || batch.n_sequences == nullptr || batch.sequences == nullptr ||
      batch.output == nullptr) {
    return fail(ErrorCode::Unsupported, "llama.cpp's batch has an unknown layout");
  }
  return outcome::success();
}

Result<LlamaVocabulary> LlamaVocabulary::open(const std::filesystem::path& path) {
  QF_ASSIGN(const LlamaLibrary* library, LlamaLibrary::load());
  LlamaVocabulary vocabulary;
  vocabulary.f_ = &library->functions();
  LibraryLog::get().collect();
  Parameters parameters{};
  vocabulary.f_->llama_model_default_params(&parameters);
  auto* bytes = reinterpret_cast<std::uint8_t*>(parameters.words.data());
  if (bytes[kVocabularyOnly] != 0)
    return fail(ErrorCode::Unsupported, "the llama.cpp library's model parameters have an unknown layout");
  bytes[kVocabularyOnly] = 1;
  NativeModel* model = vocabulary.f_->llama_model_load_from_file(path.c_str(), parameters);
  if (model == nullptr)
    return fail(ErrorCode::Malformed, "llama.cpp does not load {}: {}", path.string(),
                LibraryLog::get().collect());
  vocabulary.model_ = {model,
                       [free = vocabulary.f_->llama_model_free](NativeModel* loaded) { free(loaded); }};
  return vocabulary;
}

Result<LlamaVocabulary> LlamaVocabulary::of(const GgufMetadata& metadata) {
  const TemporaryFolder folder;
  const auto path = folder / "vocabulary.gguf";
  QF_ASSIGN(auto writer, GgufWriter::create(path, metadata, {}));
  QF_TRY(writer.commit());
  return open(path);
}

std::size_t LlamaVocabulary::size() const {
  const auto* vocabulary = f_->llama_model_get_vocab(static_cast<const NativeModel*>(model_.get()));
  return static_cast<std::size_t>(f_->llama_vocab_n_tokens(vocabulary));
}

Result<std::vector<Token>> LlamaVocabulary::tokenize(std::string_view text, bool add_special,
                                                     bool parse_special) const {
  const auto* vocabulary = f_->llama_model_get_vocab(static_cast<const NativeModel*>(model_.get()));
  std::vector<Token> tokens(3 * text.size() + 8);  // an invalid byte becomes three; special ones at both ends
  const std::int32_t count =
      f_->llama_tokenize(vocabulary, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                         static_cast<std::int32_t>(tokens.size()), add_special, parse_special);
  if (count < 0) return fail(ErrorCode::Internal, "llama.cpp's tokenizer asks for {} tokens", -count);
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

std::size_t LlamaModel::vocabulary_size() const {
  return state_->vocabulary_size;
}

std::string LlamaModel::description() const {
  std::array<char, 256> text{};
  state_->f->llama_model_desc(state_->model.get(), text.data(), text.size());
  return text.data();
}

std::optional<Token> LlamaModel::beginning_token() const {
  if (!state_->f->llama_vocab_get_add_bos(state_->vocabulary)) return std::nullopt;
  return state_->f->llama_vocab_bos(state_->vocabulary);
}

Result<std::vector<Token>> LlamaModel::tokenize(std::string_view text) const {
  std::vector<Token> tokens(text.size() + 2);  // a token has at least one byte; special ones at both ends
  const std::int32_t count =
      state_->f->llama_tokenize(state_->vocabulary, text.data(), static_cast<std::int32_t>(text.size()),
                                tokens.data(), static_cast<std::int32_t>(tokens.size()), true, false);
  if (count < 0) return fail(ErrorCode::Internal, "llama.cpp's tokenizer asks for {} tokens", -count);
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

Result<void> LlamaModel::decode(std::span<const Token> tokens, std::size_t first) {
  if (tokens.empty() || tokens.size() > state_->context_tokens || first >= tokens.size()) {
    return fail(ErrorCode::InvalidArgument, "{} tokens, logits from {}: the context holds {}", tokens.size(),
                first, state_->context_tokens);
  }
  Batch& batch = state_->batch;
  batch.n_tokens = static_cast<std::int32_t>(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || static_cast<std::size_t>(tokens[i]) >= state_->vocabulary_size) {
      return fail(ErrorCode::InvalidArgument, "token {} is not in the vocabulary of {}", tokens[i],
                  state_->vocabulary_size);
    }
    batch.token[i] = tokens[i];
    batch.position[i] = static_cast<std::int32_t>(i);
    batch.n_sequences[i] = 1;
    batch.sequences[i][0] = 0;
    batch.output[i] = i >= first ? 1 : 0;
  }
  state_->f->llama_memory_clear(state_->f->llama_get_memory(state_->context), false);
  const std::int32_t status = state_->f->llama_decode(state_->context, batch);
  if (state_->unknown_tensors)
    return fail(ErrorCode::Unsupported, "the llama.cpp library's tensors have an unknown layout");
  if (status != 0) {
    return fail(ErrorCode::Internal, "llama_decode returned {}: {}", status, LibraryLog::get().collect());
  }
  state_->first = first;
  return outcome::success();
}

std::span<const float> LlamaModel::logits(std::size_t index) const {
  const float* row =
      state_->f->llama_get_logits_ith(state_->context, static_cast<std::int32_t>(state_->first + index));
  return {row, row == nullptr ? 0 : state_->vocabulary_size};
}

}  // namespace quantfit::test
