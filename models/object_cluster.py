"""The object cluster (VOC): aggregates the objects of single frames over time, guided by the sentence."""

from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import AttentionLayer, FeedForwardLayer, xavier_matrices


class ObjectCluster(nn.Module):
    """Self-attention among the objects of all frames; video-level queries, initialised by the sentence, attend to them.

    Args:
        dim: width.
        num_queries: of the video; one per frame query, because query i of every frame is added to cluster i.
        num_layers: of the encoder and of the decoder.

    Source: SOC (arXiv:2305.17011), section 3.3; without time encoding and without windows, as published.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_queries: int,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        num_layers: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()

        def attention() -> nn.ModuleList:
            return nn.ModuleList(AttentionLayer(dim, num_heads, dropout=dropout) for _ in range(num_layers))

        def feed_forward() -> nn.ModuleList:
            return nn.ModuleList(FeedForwardLayer(dim, ffn_dim, dropout=dropout) for _ in range(num_layers))

        self.frame_attention, self.frame_feed_forward = attention(), feed_forward()
        self.cross_attention, self.self_attention, self.feed_forward = attention(), attention(), feed_forward()
        self.norm = nn.LayerNorm(dim)
        for layers in self.children():
            xavier_matrices(layers)
        self.frame_query_position = nn.Embedding(num_queries, dim)
        self.query_embedding = nn.Embedding(num_queries, dim)

    def forward(
        self, objects: Float[Tensor, "batch time query dim"], sentence: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch query dim"]:
        """Video-level embedding of each query.

        Args:
            objects: decoder output of every frame; layers of the decoder come as further batch entries.
            sentence: from the text encoder's pooler.
        """
        batch, time, num_queries, _ = objects.shape
        tokens = rearrange(objects, "b t q c -> b (t q) c")
        for attend, feed_forward in zip(self.frame_attention, self.frame_feed_forward, strict=True):
            tokens = feed_forward(attend(tokens, query=tokens, key=tokens, value=tokens))

        keys = tokens + repeat(self.frame_query_position.weight, "q c -> (t q) c", t=time)
        positions = repeat(self.query_embedding.weight, "q c -> b q c", b=batch)
        cluster = repeat(sentence, "b c -> b q c", q=num_queries)
        for cross, own, feed_forward in zip(self.cross_attention, self.self_attention, self.feed_forward, strict=True):
            cluster = cross(cluster, query=cluster + positions, key=keys, value=tokens)
            query = cluster + positions
            cluster = feed_forward(own(cluster, query=query, key=query, value=cluster))
        return self.norm(cluster)
