"""Sparse GGUF files with the true shapes of large models: real headers, and holes in place of the weights.

usage: large_model.py NAME FOLDER [--files N]   NAME: qwen3.5-397b, deepseek-v3, llama-3.1-405b, qwen3-30b

Matrices are BF16, vectors F32; all weights read as zeros and take no room on the disk. Prints the first file.
"""
import argparse
import os
import pathlib
import struct

F32, BF16 = 0, 30
ALIGNMENT = 32


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def key(name, value, kind=4):
    if isinstance(value, str):
        return text(name) + struct.pack("<I", 8) + text(value)
    return text(name) + struct.pack("<I", kind) + struct.pack({2: "<H", 4: "<I", 5: "<i"}[kind], value)


class Shape:
    def __init__(self, architecture, layers, embedding, vocabulary, context, **numbers):
        self.architecture = architecture
        self.embedding = embedding
        self.keys = {"block_count": layers, "context_length": context, "embedding_length": embedding, **numbers}
        self.tensors = [("token_embd.weight", [embedding, vocabulary]), ("output_norm.weight", [embedding]),
                        ("output.weight", [embedding, vocabulary])]

    def add(self, layer, **roles):
        for role, dims in roles.items():
            self.tensors.append((f"blk.{layer}.{role.replace('__', '.')}.weight", dims))

    def add_norms(self, layer, *roles):
        self.add(layer, **{role: [self.embedding] for role in roles})

    def add_experts(self, layer, width, experts, shared=0):
        e = self.embedding
        self.add(layer, ffn_gate_inp=[e, experts], ffn_gate_exps=[e, width, experts], ffn_up_exps=[e, width, experts],
                 ffn_down_exps=[width, e, experts])
        if shared:
            self.add(layer, ffn_gate_shexp=[e, shared], ffn_up_shexp=[e, shared], ffn_down_shexp=[shared, e])

    def add_dense(self, layer, width):
        e = self.embedding
        self.add(layer, ffn_gate=[e, width], ffn_up=[e, width], ffn_down=[width, e])


def qwen35_397b():
    """Three of four layers with linear attention, 512 experts, and one layer that predicts a further token."""
    shape = Shape("qwen35moe", 61, 4096, 248320, 262144, nextn_predict_layers=1, full_attention_interval=4,
                  expert_count=512, expert_used_count=10, expert_feed_forward_length=1024,
                  expert_shared_feed_forward_length=1024,
                  **{"attention.head_count": 32, "attention.head_count_kv": 2, "attention.key_length": 256,
                     "attention.value_length": 256, "ssm.conv_kernel": 4, "ssm.inner_size": 8192, "ssm.state_size": 128,
                     "ssm.group_count": 16, "ssm.time_step_rank": 64})
    for layer in range(61):
        shape.add_norms(layer, "attn_norm", "post_attention_norm")
        if layer % 4 == 3 or layer == 60:
            shape.add(layer, attn_q=[4096, 16384], attn_k=[4096, 512], attn_v=[4096, 512], attn_output=[8192, 4096],
                      attn_q_norm=[256], attn_k_norm=[256])
        else:
            shape.add(layer, attn_qkv=[4096, 12288], attn_gate=[4096, 8192], ssm_conv1d=[4, 12288],
                      ssm_alpha=[4096, 64], ssm_beta=[4096, 64], ssm_norm=[128], ssm_out=[8192, 4096])
        shape.add_experts(layer, 1024, 512, 1024)
        shape.add(layer, ffn_gate_inp_shexp=[4096])
    shape.add(60, nextn__eh_proj=[8192, 4096], nextn__enorm=[4096], nextn__hnorm=[4096], nextn__shared_head_norm=[4096])
    return shape


def deepseek_v3():
    shape = Shape("deepseek2", 61, 7168, 129280, 163840, feed_forward_length=18432, leading_dense_block_count=3,
                  expert_count=256, expert_used_count=8, expert_feed_forward_length=2048,
                  **{"attention.head_count": 128, "attention.head_count_kv": 1, "attention.q_lora_rank": 1536,
                     "attention.kv_lora_rank": 512, "attention.key_length": 576, "attention.value_length": 512,
                     "attention.key_length_mla": 192, "attention.value_length_mla": 128, "rope.dimension_count": 64})
    for layer in range(61):
        shape.add_norms(layer, "attn_norm", "ffn_norm")
        shape.add(layer, attn_q_a=[7168, 1536], attn_q_b=[1536, 24576], attn_kv_a_mqa=[7168, 576],
                  attn_k_b=[128, 512, 128], attn_v_b=[512, 128, 128], attn_output=[16384, 7168], attn_q_a_norm=[1536],
                  attn_kv_a_norm=[512])
        if layer < 3:
            shape.add_dense(layer, 18432)
        else:
            shape.add_experts(layer, 2048, 256, 2048)
    return shape


def llama_405b():
    shape = Shape("llama", 126, 16384, 128256, 131072, feed_forward_length=53248,
                  **{"attention.head_count": 128, "attention.head_count_kv": 8, "rope.dimension_count": 128})
    for layer in range(126):
        shape.add_norms(layer, "attn_norm", "ffn_norm")
        shape.add(layer, attn_q=[16384, 16384], attn_k=[16384, 1024], attn_v=[16384, 1024], attn_output=[16384, 16384])
        shape.add_dense(layer, 53248)
    return shape


def qwen3_30b():
    shape = Shape("qwen3moe", 48, 2048, 151936, 40960, expert_count=128, expert_used_count=8,
                  expert_feed_forward_length=768,
                  **{"attention.head_count": 32, "attention.head_count_kv": 4, "attention.key_length": 128,
                     "attention.value_length": 128})
    for layer in range(48):
        shape.add_norms(layer, "attn_norm", "ffn_norm")
        shape.add(layer, attn_q=[2048, 4096], attn_k=[2048, 512], attn_v=[2048, 512], attn_output=[4096, 2048],
                  attn_q_norm=[128], attn_k_norm=[128])
        shape.add_experts(layer, 768, 128)
    return shape


SHAPES = {"qwen3.5-397b": qwen35_397b, "deepseek-v3": deepseek_v3, "llama-3.1-405b": llama_405b,
          "qwen3-30b": qwen3_30b}


def data_bytes(dims):
    count = 1
    for extent in dims:
        count *= extent
    return count * (4 if len(dims) == 1 else 2)


def padded(size):
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def write_file(path, keys, tensors):
    """The header, and a hole as long as the tensors."""
    infos, offset = b"", 0
    for name, dims in tensors:
        infos += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        infos += struct.pack("<IQ", F32 if len(dims) == 1 else BF16, offset)
        offset += padded(data_bytes(dims))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + infos
    with open(path, "wb") as file:
        file.write(header)
        os.ftruncate(file.fileno(), padded(len(header)) + offset)


def write_model(name, folder, files):
    """The files, in order; as near to equal as tensors allow."""
    shape = SHAPES[name]()
    total = sum(data_bytes(dims) for _, dims in shape.tensors)
    parts = [[] for _ in range(files)]
    done = 0
    for tensor in shape.tensors:
        parts[min(files - 1, done * files // total)].append(tensor)
        done += data_bytes(tensor[1])
    paths = []
    for i, part in enumerate(parts):
        keys = []
        if i == 0:
            keys += [key("general.architecture", shape.architecture), key("general.name", name)]
            keys += [key(f"{shape.architecture}.{suffix}", value) for suffix, value in shape.keys.items()]
        if files > 1:
            keys += [key("split.no", i, 2), key("split.count", files, 2), key("split.tensors.count", len(shape.tensors), 5)]
        path = pathlib.Path(folder) / (f"{name}-{i + 1:05}-of-{files:05}.gguf" if files > 1 else f"{name}.gguf")
        write_file(path, keys, part)
        paths.append(path)
    return paths


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(SHAPES))
    parser.add_argument("folder")
    parser.add_argument("--files", type=int, default=17)
    options = parser.parse_args()
    print(write_model(options.name, options.folder, options.files)[0])


if __name__ == "__main__":
    main()
