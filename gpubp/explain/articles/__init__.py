"""The worked examples of five articles, held against gpubp: `gpubp explain two-layer` shows one, this dict has all."""

from gpubp.explain.articles.article import Article
from gpubp.explain.articles.chain import ChainOfUnits
from gpubp.explain.articles.columns import Columns
from gpubp.explain.articles.one_weight import OneWeight
from gpubp.explain.articles.softmax import FourLayers
from gpubp.explain.articles.sparse import Sparse
from gpubp.explain.articles.two_layer import TwoLayers

ARTICLES: dict[str, type[Article]] = {
    article.name: article for article in (Sparse, TwoLayers, FourLayers, ChainOfUnits, Columns, OneWeight)
}
