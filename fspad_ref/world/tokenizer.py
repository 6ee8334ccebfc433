"""The built-in target's tokenizer: a byte-level BPE, learned from the world's own text, with a chat template.

Bytes are the alphabet, so every text can be encoded and decoded back without loss. Digits stay single tokens, the first
with the blank before it: a number is then the same sequence of tokens wherever it stands behind a blank, which is what
makes written arithmetic learnable. (In "[3]", or where a text begins, its first digit is another token.)

    <|bos|><|user|>question<|assistant|>answer<|end|><|user|>question 2<|assistant|>answer 2<|end|>
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fspad_ref.errors import ConfigError

BOS, USER, ASSISTANT, END, PAD = SPECIAL = ("<|bos|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('expected the roles user and assistant, found ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int = 6144, positions: int = 1024) -> PreTrainedTokenizerFast:
    """Learn a BPE of at most `vocabulary` entries (the 5 special tokens and the 256 bytes among them) from `texts`.

    Raises ConfigError if the vocabulary has no room for the bytes.
    """
    if vocabulary < 256 + len(SPECIAL):
        raise ConfigError(f"expected a vocabulary of at least {256 + len(SPECIAL)}, found {vocabulary}; use 6144")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=positions,
        padding_side="left",  # the side that generation in batches needs
        clean_up_tokenization_spaces=False,
    )
