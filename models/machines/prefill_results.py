"""What the cores of a prefill computed, put together in the prompt's and the model's order."""

import dataclasses

import jax
import numpy as np

from kernels.tokens.placement import Placement
from kernels.trainium.layer.cached import CodedPart
from kernels.wse.decode.layout import CodedTokens
from models.machines.prefill_kernel import Pieces
from models.machines.tensor_parallel import Shares


@dataclasses.dataclass(frozen=True, eq=False)
class Gathering:
    """Where results stand.

    Attributes:
      shares: what each core of a chip holds.
      where: the placement of the prompt's tokens.
      owner: the chip that holds the last of them.
      vocabulary: how many logits there are.
      head_dim: features of a key and a value.
      of_latents: whether the cache is of latents.
    """

    shares: Shares
    where: Placement
    owner: int
    vocabulary: int
    head_dim: int
    of_latents: bool

    @property
    def cores(self) -> int:
        """Of a chip."""
        return len(self.shares.heads)

    def logits(self, pieces: Pieces) -> np.ndarray:
        """The last token's logits, float32 `[vocabulary]`, put together from all cores'."""
        # The other chips hold no last token: their logits are of no use.
        by_core = [
            np.asarray(logits[self.owner], np.float32).reshape(self.cores, -1)
            for logits, _ in pieces
        ]
        # Where cores' ids overlap, each computed the same logit.
        whole = np.empty(self.vocabulary, np.float32)
        whole[self.shares.vocabulary] = np.concatenate(by_core, axis=1)
        return whole

    def first_token(self, pieces: Pieces) -> int:
        """The first generated token, from each column block's own maximum."""
        largest, token = -np.inf, 0
        for core, ids in enumerate(self.shares.vocabulary):
            block_start = int(ids[0])
            for logits, places in pieces:
                blocks = np.asarray(logits[self.owner, core])[:, 0]
                best_places = np.asarray(places[self.owner, core])[:, 0, 0]
                for block, place in zip(blocks, best_places, strict=True):
                    # Blocks go up in ids, so an equal logit later does not win.
                    if block[place] > largest:
                        largest, token = block[place], block_start + int(place)
                    block_start += blocks.shape[1]
        return token

    def cache(self, k: jax.Array, v: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values as `PrefillResult` has them, padding and copies dropped.

        Args:
          k: `[chips, cores, layers, token tiles, kv_heads, head_dim, rows]`.
          v: `[chips, cores, layers, token tiles, rows, kv_heads · head_dim]`; of latents, `[chips,
            cores, layers, key tiles, 1, parts, features of a part, columns]`.
        """
        if self.of_latents:
            # Every core has all of both.
            rotary, latents = np.asarray(k)[:, 0, :, :, 0], np.asarray(v)[:, 0, :, :, 0]
            by_key = latents.transpose(0, 1, 2, 5, 3, 4)
            return self._by_token(rotary.swapaxes(-2, -1)), self._by_token(by_key)
        head_dim = self.head_dim
        by_head = np.asarray(v).reshape(*v.shape[:-1], -1, head_dim)
        # Both to [chips, layers, token tiles, rows, cores, kv_heads, head_dim].
        keys = np.asarray(k).transpose(0, 2, 3, 6, 1, 4, 5)
        values = by_head.transpose(0, 2, 3, 4, 1, 5, 6)
        return self._collected(keys), self._collected(values)

    def coded_cache(
        self, k: CodedPart, v: CodedPart
    ) -> tuple[CodedTokens, CodedTokens]:
        """`cache` of keys and values in codes, `[chips, cores, layers, token tiles, rows, ...]`."""
        return self._coded(k), self._coded(v)

    def _coded(self, part: CodedPart) -> CodedTokens:
        codes, scale = (
            self._collected(
                np.asarray(x)
                .reshape(*x.shape[:-1], -1, features)
                .transpose(0, 2, 3, 4, 1, 5, 6)
            )
            for x, features in ((part.codes, self.head_dim), (part.scale, 1))
        )
        return CodedTokens(codes, scale)

    def _by_token(self, stored: np.ndarray) -> np.ndarray:
        """Of `[chips, layers, tiles, rows, ...]` each token's features, in the prompt's order."""
        chips, layers = stored.shape[:2]
        flat = stored.reshape(chips, layers, self.where.slots, -1)
        return self.where.collect(flat, axis=1)

    def _collected(self, stored: np.ndarray) -> np.ndarray:
        """In the prompt's order, each KV head from one of the cores that hold it."""
        chips, layers = stored.shape[:2]
        heads = (self.shares.kv_heads.size, stored.shape[-1])
        stored = stored.reshape(chips, layers, self.where.slots, *heads)
        in_order = self.where.collect(stored, axis=1)
        # Heads lie core by core, with copies and padding among them; the first place of each is
        # taken.
        return in_order[:, :, self.shares.kv_owners()]


__all__ = ["Gathering"]
