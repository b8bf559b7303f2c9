"""Where the tiny model's training begins: weights that can already copy a word that stood before.

Small Transformers learn copying late and all at once: neither the head that finds the earlier place nor the one that
takes the word from there is of use alone. From random weights that moment had not come after 500 steps. So both are
laid out here by hand, the way they are found in trained models ("In-context learning and induction heads", 2022), and
training goes on from there. Knows the layout of Llama's weights; knows nothing of text.

The hidden state's 256 places: 0 to 126 the token, 127 a constant, 128 to 255 codes of the two tokens before it.
"""

import torch
from transformers import LlamaForCausalLM

ROPE_THETA = (
    500_000.0  # with Llama 2's 10,000 too few of 32 places keep their meaning over 80 tokens
)
TOKEN, CONSTANT, CODES = 127, 127, 128
HEAD = 32  # places in a head
FAINT = 0.002  # not 0: a row of zeros gets no gradient and stays so, and DoRA divides by the length of each row
BACK = (1, 1, 2, 2)  # how far back each of the first layer's heads 0 to 3 looks


@torch.no_grad()
def begin_copying(model: LlamaForCausalLM) -> None:
    """Lays out, in a fresh model: two heads that look one token back, two that look two back, and heads that use them."""
    embeddings = model.get_input_embeddings().weight
    embeddings.zero_()
    tokens = torch.randn(len(embeddings), TOKEN)
    embeddings[:, :TOKEN] = tokens / tokens.norm(dim=1, keepdim=True) * 0.5**0.5
    embeddings[:, CONSTANT] = 0.5**0.5
    # The same two codes for one back and two back, so that they can be compared with each other.
    codes = [_projection(TOKEN), _projection(TOKEN)] * 2
    for head, (back, code) in enumerate(zip(BACK, codes, strict=True)):
        _look_back(model.model.layers[0].self_attn, head, back)
        _write(model.model.layers[0].self_attn, head, code)
    for layer in model.model.layers[1:3]:
        for head in range(4):
            _find_what_followed(layer.self_attn, head, codes[head], skipping=head >= 2)
            _take_token(layer.self_attn, head)


def _projection(width: int) -> torch.Tensor:
    """Orthonormal rows `(HEAD, width)`."""
    return torch.linalg.qr(torch.randn(width, HEAD)).Q.T


def _rows(head: int) -> slice:
    return slice(head * HEAD, (head + 1) * HEAD)


def _look_back(attention: torch.nn.Module, head: int, back: int) -> None:
    """Makes the attention depend on the distance alone, with its peak `back` tokens before."""
    query, key = attention.q_proj.weight[_rows(head)], attention.k_proj.weight[_rows(head)]
    query.normal_(std=FAINT)
    key.normal_(std=FAINT)
    for pair in range(5):  # the fast rotations tell near distances apart
        angle = torch.tensor(ROPE_THETA ** (-2 * pair / HEAD) * back)
        query[pair, CONSTANT] = 0.7
        key[pair, CONSTANT] = 0.7 * angle.cos()
        key[pair + HEAD // 2, CONSTANT] = 0.7 * angle.sin()


def _write(attention: torch.nn.Module, head: int, code: torch.Tensor) -> None:
    """Writes the code of the token that is looked at into the head's own places."""
    attention.v_proj.weight[_rows(head)] = 0.0
    attention.v_proj.weight[_rows(head), :TOKEN] = code
    attention.o_proj.weight[:, _rows(head)] = 0.0
    places = slice(CODES + head * HEAD, CODES + (head + 1) * HEAD)
    attention.o_proj.weight[places, _rows(head)] = 0.18 * torch.eye(HEAD)


def _find_what_followed(
    attention: torch.nn.Module, head: int, code: torch.Tensor, *, skipping: bool
) -> None:
    """Attends to what followed the same token earlier; `skipping`: the same token before a separator."""
    slow = [
        *range(5, HEAD // 2),
        *range(HEAD // 2 + 5, HEAD),
    ]  # rotations that a few lines do not turn far
    query, key = attention.q_proj.weight[_rows(head)], attention.k_proj.weight[_rows(head)]
    query.normal_(std=FAINT)
    key.normal_(std=FAINT)
    for place, dimension in enumerate(slow):
        if skipping:  # my token before equals its token before the last
            query[dimension, CODES + (head - 2) * HEAD + place] = 1.2
            key[dimension, CODES + head * HEAD + place] = 1.2
        else:  # my token equals its token before
            query[dimension, :TOKEN] = 2.0 * code[place]
            key[dimension, CODES + head * HEAD + place] = 2.0


def _take_token(attention: torch.nn.Module, head: int) -> None:
    """Makes the token that is attended to likelier."""
    code = _projection(TOKEN)
    attention.v_proj.weight[_rows(head)] = 0.0
    attention.v_proj.weight[_rows(head), :TOKEN] = code
    attention.o_proj.weight[:, _rows(head)] = 0.0
    attention.o_proj.weight[:TOKEN, _rows(head)] = code.T
