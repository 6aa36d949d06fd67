"""The object cluster (VOC): aggregates the objects of single frames over time, guided by the sentence."""

from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import AttentionLayer, FeedForwardLayer, xavier_matrices
from models.outputs import TextFeatures
from models.trajectory import Trajectory, TrajectoryEncoder


class ObjectCluster(nn.Module):
    """Self-attention among the objects of all frames; video-level queries, initialised by the sentence, attend to them.

    Args:
        dim: width.
        num_queries: of the video; one per frame query, because query i of every frame is added to cluster i.
        num_layers: of the encoder and of the decoder.
        with_trajectory: the queries of the video see the boxes of their query over time. Ours; as published there is
            no time encoding.

    Source: SOC (arXiv:2305.17011), section 3.3; without windows, as published.
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
        with_trajectory: bool = False,
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
        self.trajectory: TrajectoryEncoder | None = None
        if with_trajectory:
            self.trajectory = TrajectoryEncoder(dim, num_heads=num_heads, ffn_dim=ffn_dim, dropout=dropout)

    def forward(
        self, objects: Float[Tensor, "layer batch time query dim"], text: TextFeatures, trajectory: Trajectory
    ) -> Float[Tensor, "layer batch query dim"]:
        """Video-level embedding of each query, for some layers of the decoder.

        Args:
            objects: decoder output of every frame.
            text: the sentences.
            trajectory: boxes of the queries over time; not read without `with_trajectory`.
        """
        num_layers, batch, time, num_queries, _ = objects.shape
        path = None if self.trajectory is None else self.trajectory(trajectory, text).repeat(num_layers, 1, 1)
        tokens = rearrange(objects, "l b t q c -> (l b) (t q) c")
        for attend, feed_forward in zip(self.frame_attention, self.frame_feed_forward, strict=True):
            tokens = feed_forward(attend(tokens, query=tokens, key=tokens, value=tokens))

        keys = tokens + repeat(self.frame_query_position.weight, "q c -> (t q) c", t=time)
        positions = repeat(self.query_embedding.weight, "q c -> b q c", b=num_layers * batch)
        cluster = repeat(text.sentence, "b c -> (l b) q c", l=num_layers, q=num_queries)
        layers = zip(self.cross_attention, self.self_attention, self.feed_forward, strict=True)
        for number, (cross, own, feed_forward) in enumerate(layers):
            cluster = cross(cluster, query=cluster + positions, key=keys, value=tokens)
            if path is not None and number == 0:
                cluster = cluster + path  # before the queries attend to each other: "faster" compares them
            query = cluster + positions
            cluster = feed_forward(own(cluster, query=query, key=query, value=cluster))
        return rearrange(self.norm(cluster), "(l b) q c -> l b q c", l=num_layers)
