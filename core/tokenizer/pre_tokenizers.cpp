#include "core/tokenizer/pre_tokenizers.h"

#include <algorithm>
#include <array>

namespace quantfit {
namespace {

// The patterns are facts of the vocabularies that were trained with them, as llama.cpp names and applies
// them. Those marked "rewritten" differ from the original text, not in what they match, but in how they get
// there: a repeated group is a repeated set, so that no stack grows with the text, and no position is scanned
// twice, so that the time is linear whatever the text. tokenization.md has the originals' quirks.

using Kind = SplitPass::Kind;

// Adjacent literals are joined by the compiler; these are the pieces that many patterns share.
#define QF_CONTRACTION R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]))"
#define QF_SPACES R"(\s+(?!\S)|\s+)"
#define QF_GPT2 R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"
#define QF_WORD R"([^\r\n\p{L}\p{N}]?\p{L}+)"
#define QF_SYMBOLS R"( ?[^\s\p{L}\p{N}]+[\r\n]*)"
#define QF_SYMBOLS_SLASH R"( ?[^\s\p{L}\p{N}]+[\r\n/]*)"
#define QF_NEWLINES R"(\s*[\r\n]+)"
#define QF_QWEN2 QF_CONTRACTION "|" QF_WORD R"(|\p{N}|)" QF_SYMBOLS "|" QF_NEWLINES "|" QF_SPACES
#define QF_CJK R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)"
#define QF_MIXED                                                                            \
  R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)" \
  R"(| ?[\p{P}\p{S}]+[\r\n]*|)" QF_NEWLINES "|" QF_SPACES
// Where numbers are cut in threes first, a look-ahead of the later passes still sees the number behind white
// space: its last character stays apart, unless it ends a line.
#define QF_SPACE_BEFORE_NUMBER R"((?<=\s)\p{Blank}(?=\p{N}))"
#define QF_AFMOE_SCRIPTS                                                                      \
  R"([\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{8C48}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF})" \
  R"(\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{E40}-\x{E7F}\x{E80}-\x{EFF}\x{1780}-\x{17FF})"      \
  R"(\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}])"
// Upper case run, lower case run; the optional contraction and the numbers differ. Rewritten: the originals
// spell each set as a look-ahead and a negated range.
#define QF_CASES(upper, lower, contraction)                                                        \
  R"([^\r\n\p{L}\p{N}]?)" upper "*" lower "+" contraction R"(|[^\r\n\p{L}\p{N}]?)" upper "+" lower \
  "*" contraction "|"

constexpr SplitPass kDefault[] = {{Kind::Matches, R"([\p{P}\$\+<=>\^~\|]+)"},
                                  {Kind::Matches, QF_GPT2},
                                  {Kind::Matches, R"(\p{N}+)"},
                                  {Kind::Matches, R"([0-9][0-9][0-9])"}};
constexpr SplitPass kFalcon[] = {{Kind::Matches, R"([\p{P}\$\+<=>\^~\|`]+)"},
                                 {Kind::Matches, QF_GPT2},
                                 {Kind::Matches, R"([0-9][0-9][0-9])"}};
constexpr SplitPass kGpt2[] = {{Kind::Matches, QF_GPT2}};
constexpr SplitPass kStarCoder[] = {{Kind::Matches, R"(\p{N})"}, {Kind::Matches, QF_GPT2}};
constexpr SplitPass kLlama3[] = {
    {Kind::Matches, QF_CONTRACTION "|" QF_WORD R"(|\p{N}{1,3}|)" QF_SYMBOLS "|" QF_NEWLINES "|" QF_SPACES}};
constexpr SplitPass kMiniCpm5[] = {
    {Kind::Matches, R"(\p{N}{1,3})"},
    {Kind::Matches, QF_CONTRACTION "|" QF_WORD R"(|\p{N}+|)" QF_SYMBOLS "|" QF_NEWLINES "|" QF_SPACES}};
constexpr SplitPass kQwen2[] = {{Kind::Matches, QF_QWEN2}};
constexpr SplitPass kQwen35[] = {
    {Kind::Matches, QF_CONTRACTION
     R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)" QF_NEWLINES "|" QF_SPACES}};
constexpr SplitPass kLaguna[] = {{Kind::Matches, R"([^\n]+|[\n]+)"}, {Kind::Matches, QF_QWEN2}};
constexpr SplitPass kLines[] = {{Kind::Matches, R"([^\n]+|[\n]+)"}};
constexpr SplitPass kWhitespace[] = {{Kind::Matches, R"(\S+)"}};
// Rewritten: whoever stands behind white space that is no line end has been told already that no line end
// follows.
constexpr SplitPass kJais2[] = {
    {Kind::Matches,
     QF_CONTRACTION "|" QF_WORD R"(|\p{N}{1,3}|)" QF_SYMBOLS
                    R"(|(?<!\p{Blank})\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S))"
                    R"(|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})"}};
constexpr SplitPass kBailingMoe[] = {{Kind::Matches, R"('(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|)" QF_WORD
                                                     R"(|\p{N}|)" QF_SYMBOLS R"(|\s*[\r\n]|)" QF_SPACES}};
constexpr SplitPass kSeedCoder[] = {{Kind::Matches, QF_CONTRACTION
                                     "|" QF_WORD R"(|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|)" QF_NEWLINES
                                     "|" QF_SPACES}};
// Rewritten: the original nests two repetitions of letters, marks and single spaces.
constexpr SplitPass kExaoneMoe[] = {
    {Kind::Matches, QF_CONTRACTION
     R"(|[^\r\n\p{L}\p{N}]?\p{L}[\p{L}\p{M}]*+(?: \p{L}[\p{L}\p{M}]*+)*+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?)"
     R"(|\s*[\r\n]|)" QF_SPACES}};
constexpr SplitPass kGpt4o[] = {{Kind::Matches, QF_CASES(R"(\p{NotLower})", R"(\p{NotUpper})",
                                                         QF_CONTRACTION "?") R"(\p{N}{1,3}|)" QF_SYMBOLS_SLASH
                                                                             "|" QF_NEWLINES "|" QF_SPACES}};
constexpr SplitPass kTekken[] = {
    {Kind::Matches, QF_CASES(R"(\p{NotLower})", R"(\p{NotUpper})", "") R"(\p{N}|)" QF_SYMBOLS_SLASH
                                                                       "|" QF_NEWLINES "|" QF_SPACES}};
constexpr SplitPass kGraniteMulti[] = {{Kind::Matches,
                                        QF_CASES(R"([\p{NotLower}\p{M}])", R"([\p{NotUpper}\p{M}])",
                                                 QF_CONTRACTION "?") R"(\p{N}{1,3}|)" QF_SYMBOLS_SLASH
                                                                     "|" QF_NEWLINES "|" QF_SPACES}};
// Rewritten: the original tells upper from lower case, which the categories here do not.
constexpr SplitPass kTinyAya[] = {
    {Kind::Matches, QF_SPACE_BEFORE_NUMBER},
    {Kind::Triples, R"(\p{N}+)"},
    {Kind::Matches, R"([^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+)" QF_CONTRACTION R"(?|\p{N}{1,3}|)" QF_SYMBOLS_SLASH
                    "|" QF_NEWLINES "|" QF_SPACES}};
// Rewritten in the same way.
constexpr SplitPass kYoutu[] = {
    {Kind::Matches,
     R"([\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019})"
     R"(\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+)"
     R"(|[\x{3105}-\x{312F}]+|)" QF_CJK},
    {Kind::Matches, R"([^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+)" QF_CONTRACTION R"(?|\p{N}|)" QF_SYMBOLS_SLASH
                    "|" QF_NEWLINES "|" QF_SPACES}};
// Written from its description: the original is a procedure.
constexpr SplitPass kKimiK2[] = {{Kind::Matches,
                                  R"(\p{Han}+|[^\r\n\p{L}\p{N}]?\p{NotHan}+)" QF_CONTRACTION
                                  R"(?|\p{N}{1,3}|)" QF_SYMBOLS "|" QF_NEWLINES "|" QF_SPACES}};
constexpr SplitPass kDeepSeek3[] = {
    {Kind::Matches, R"(\p{N}{1,3})"}, {Kind::Matches, QF_CJK}, {Kind::Matches, QF_MIXED}};
constexpr SplitPass kAfMoe[] = {{Kind::Matches, QF_SPACE_BEFORE_NUMBER "(?!" QF_AFMOE_SCRIPTS ")"},
                                {Kind::Triples, R"(\p{N}+)"},
                                {Kind::Matches, QF_AFMOE_SCRIPTS "+"},
                                {Kind::Matches, QF_MIXED}};
constexpr SplitPass kDeepSeekCoder[] = {
    {Kind::Matches, R"([\r\n])"},
    {Kind::Matches, R"(\s?\p{L}+)"},
    {Kind::Matches, R"(\s?\p{P}+)"},
    {Kind::Matches, R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)"},
    {Kind::Matches, R"(\p{N})"}};
// Rewritten: white space at the end is looked for where it begins only.
constexpr SplitPass kDeepSeekLlm[] = {
    {Kind::Matches, R"([\r\n])"},
    {Kind::Matches,
     R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
     R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})"
     R"(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556})"
     R"(\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})"
     R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
     R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D})"
     R"(\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC})"
     R"(\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC})"
     R"(\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128})"
     R"(\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183})"
     R"(\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D})"
     R"(\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF})"
     R"(\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F})"
     R"(\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})"
     R"(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)"},
    {Kind::Matches, R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)"},
    {Kind::Matches, R"((?<!\s)\s+$)"},
    {Kind::Matches, R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)"},
    {Kind::Matches, R"(\p{N}+)"}};
constexpr SplitPass kPoro[] = {
    {Kind::Matches, R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)"}};
constexpr SplitPass kViking[] = {
    {Kind::Matches, R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)"},
    {Kind::Matches, R"(\p{N})"}};
constexpr SplitPass kChameleon[] = {
    {Kind::Matches, R"(<sentinel:[0-9]+>)"},    {Kind::Matches, R"(IMGIMG[A-I]{1,4}Z)"},
    {Kind::Matches, R"([\t\n]|    |  )"},       {Kind::Matches, R"(\p{N})"},
    {Kind::Matches, R"([\p{P}!-/:-@\[-`{-~])"}, {Kind::Matches, QF_GPT2}};
constexpr SplitPass kSuperBpe[] = {{Kind::Matches, R"(\p{N}+)"}, {Kind::CutsBeforeTriples, R"(\d+)"}};

#undef QF_CONTRACTION
#undef QF_SPACES
#undef QF_GPT2
#undef QF_WORD
#undef QF_SYMBOLS
#undef QF_SYMBOLS_SLASH
#undef QF_NEWLINES
#undef QF_QWEN2
#undef QF_CJK
#undef QF_MIXED
#undef QF_AFMOE_SCRIPTS
#undef QF_CASES
#undef QF_SPACE_BEFORE_NUMBER

constexpr PreTokenizer kPreTokenizers[] = {
    {.name = "default", .passes = kDefault},
    {.name = "minicpm5", .passes = kMiniCpm5, .ignore_merges = true},
    {.name = "llama3", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "llama-v3", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "llama-bpe", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "falcon3", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "falcon-h1", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "pixtral", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "midm-2.0", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "lfm2", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "jina-v5-nano", .passes = kLlama3, .ignore_merges = true, .adds_bos = true},
    {.name = "deepseek-llm", .passes = kDeepSeekLlm},
    {.name = "deepseek-coder", .passes = kDeepSeekCoder},
    {.name = "deepseek-v3", .passes = kDeepSeek3},
    {.name = "youtu", .passes = kYoutu, .ignore_merges = true},
    {.name = "falcon", .passes = kFalcon},
    {.name = "mpt", .passes = kGpt2},
    {.name = "starcoder", .passes = kStarCoder},
    {.name = "gpt-2", .passes = kGpt2},
    {.name = "phi-2", .passes = kGpt2},
    {.name = "jina-es", .passes = kGpt2},
    {.name = "jina-de", .passes = kGpt2},
    {.name = "gigachat", .passes = kGpt2},
    {.name = "jina-v2-es", .passes = kGpt2},
    {.name = "jina-v2-de", .passes = kGpt2},
    {.name = "a.x-4.0", .passes = kGpt2},
    {.name = "mellum", .passes = kGpt2},
    {.name = "modern-bert", .passes = kGpt2},
    {.name = "jais-2", .passes = kJais2},
    {.name = "gemma4", .passes = kLines, .byte_level = false, .visible_spaces = true, .newline_words = true},
    {.name = "granite-embed-multi-311m",
     .passes = kLines,
     .byte_level = false,
     .visible_spaces = true,
     .newline_words = true},
    {.name = "sarvam-moe", .passes = kLines, .byte_level = false, .visible_spaces = true},
    {.name = "jina-v1-en", .passes = kGpt2},
    {.name = "jina-v2-code", .passes = kGpt2},
    {.name = "roberta-bpe", .passes = kGpt2},
    {.name = "whitespace", .passes = kWhitespace, .byte_level = false},
    {.name = "refact", .passes = kStarCoder},
    {.name = "command-r", .passes = kStarCoder},
    {.name = "qwen2", .passes = kQwen2},
    {.name = "deepseek-r1-qwen", .passes = kQwen2},
    {.name = "kormo", .passes = kQwen2},
    {.name = "f2llmv2", .passes = kQwen2},
    {.name = "qwen35", .passes = kQwen35},
    {.name = "stablelm2", .passes = kQwen2},
    {.name = "olmo", .passes = kGpt2},
    {.name = "dbrx", .passes = kLlama3},
    {.name = "smaug-bpe", .passes = kLlama3},
    {.name = "poro-chat", .passes = kPoro},
    {.name = "glm4", .passes = kLlama3, .has_default_bos = false},
    {.name = "chatglm-bpe", .passes = kLlama3, .has_default_bos = false},
    {.name = "viking", .passes = kViking},
    {.name = "jais", .passes = kGpt2},
    {.name = "tekken", .passes = kTekken, .ignore_merges = true, .adds_bos = true},
    {.name = "smollm", .passes = kStarCoder},
    {.name = "codeshell", .passes = kStarCoder},
    {.name = "bloom", .passes = kPoro},
    {.name = "gpt3-finnish", .passes = kPoro},
    {.name = "exaone", .passes = kStarCoder},
    {.name = "exaone4", .passes = kGpt2},
    {.name = "exaone-moe", .passes = kExaoneMoe},
    {.name = "chameleon", .passes = kChameleon, .adds_bos = true},
    {.name = "minerva-7b", .passes = kStarCoder},
    {.name = "megrez", .passes = kQwen2},
    {.name = "gpt-4o", .passes = kGpt4o},
    {.name = "llama4", .passes = kGpt4o},
    {.name = "kanana2", .passes = kGpt4o},
    {.name = "talkie", .passes = kGpt4o},
    {.name = "granite-embed-multi-97m", .passes = kGraniteMulti, .ignore_merges = true},
    {.name = "tiny_aya", .passes = kTinyAya},
    {.name = "cohere2moe", .passes = kTinyAya},
    {.name = "superbpe", .passes = kSuperBpe},
    {.name = "trillion", .passes = kGpt2},
    {.name = "granite-docling", .passes = kGpt2},
    {.name = "bailingmoe", .passes = kBailingMoe},
    {.name = "bailingmoe2", .passes = kBailingMoe},
    {.name = "llada-moe", .passes = kBailingMoe},
    {.name = "seed-coder", .passes = kSeedCoder},
    {.name = "hunyuan", .passes = kQwen2},
    {.name = "hunyuan-dense", .passes = kDeepSeek3},
    {.name = "joyai-llm", .passes = kDeepSeek3},
    {.name = "kimi-k2", .passes = kKimiK2},
    {.name = "grok-2", .passes = kQwen2},
    {.name = "afmoe", .passes = kAfMoe},
    {.name = "laguna", .passes = kLaguna},
    {.name = "minimax-m2", .passes = kGpt4o},
    {.name = "solar-open", .passes = kQwen2},
    {.name = "mellum2", .passes = kStarCoder},
};

}  // namespace

const PreTokenizer* find_pre_tokenizer(std::string_view name) {
  if (name.empty()) name = "default";
  const auto found = std::find_if(std::begin(kPreTokenizers), std::end(kPreTokenizers),
                                  [&](const PreTokenizer& one) { return one.name == name; });
  return found == std::end(kPreTokenizers) ? nullptr : found;
}

std::span<const PreTokenizer> all_pre_tokenizers() {
  return kPreTokenizers;
}

}  // namespace quantfit
