"""Requests and answers of the server, as pydantic models with examples; their field names are the public interface."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_HITS = 1000
MOST_RERANKED = 64
MOST_PARTS = 32
MOST_INPUTS = 256
MOST_ITEMS = 1000

Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False, description="Weight of the part in the query.")]
Text = Annotated[str, StringConstraints(min_length=1)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]
Where = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]
Cell: TypeAlias = str | int | float | bool | None
Metadata = Annotated[dict[Column, Cell], Field(max_length=64)]


class Asked(BaseModel):
    """Base of requests: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Asked):
    """A text of a query."""

    value: Text
    weight: Weight = 1.0


class MediaPart(Asked):
    """A picture or sound of a query, as a data URL."""

    data: Annotated[str, Field(examples=["data:image/png;base64,iVBORw0KGgo="])]
    weight: Weight = 1.0


class LikePart(Asked):
    """An item of the index, as a part of a query."""

    id: Id
    weight: Weight = 1.0


Texts: TypeAlias = Annotated[list[TextPart | Text], Field(max_length=MOST_PARTS)] | TextPart | Text | None
Media: TypeAlias = Annotated[list[MediaPart | str], Field(max_length=MOST_PARTS)] | MediaPart | str | None
Likes: TypeAlias = Annotated[list[LikePart | Id], Field(max_length=MOST_PARTS)] | LikePart | Id | None


class Parts(Asked):
    """Parts of a query by kind. A single part stands for a list of one; a text or id stands for a part of weight 1."""

    text: Texts = Field(default=None, description="Texts, each with a weight if it is not 1.")
    image: Media = Field(default=None, description="Pictures as data URLs.")
    audio: Media = Field(default=None, description="Sounds as data URLs.")
    like: Likes = Field(default=None, description="Ids of items of the index.")


class SearchRequest(Parts):
    """A search."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "two dogs"},
                {
                    "text": [{"value": "two dogs", "weight": 1.0}],
                    "minus": {"text": ["snow"]},
                    "filter": "year > 2020",
                    "modality": "image",
                    "k": 24,
                },
            ]
        },
    )
    minus: Parts | None = Field(default=None, description="Parts to search away from.")
    filter: Where | None = Field(default=None, description="Condition on columns.", examples=["year > 2020"])
    modality: str | None = Field(default=None, description="Modality of the results.")
    k: int = Field(default=24, ge=1, le=MOST_HITS, description="Number of results.")
    rerank: int = Field(
        default=0, ge=0, le=MOST_RERANKED, description="Number of first hits that the model's head `matching` reorders."
    )
    prior: bool = Field(
        default=False, description="Whether texts are searched for by the embeddings that the model's prior makes."
    )


class ItemAnswer(BaseModel):
    """An item of the index."""

    id: str
    modality: str
    kind: str
    path: str | None = Field(description="Name of the item's file, without the folder.")
    text: str | None
    metadata: dict[str, Any]
    content: str | None = Field(description="Address of the item's content.", examples=["/items/a.jpg/content"])


class HitAnswer(ItemAnswer):
    """A result of a search."""

    score: float = Field(description="Cosine similarity.")
    share: float | None = Field(description="Share of random items that would score as high.")


class SearchAnswer(BaseModel):
    """Results, best first."""

    hits: list[HitAnswer]
    nothing: bool = Field(description="True if probably nothing in the index matches.")
    seconds: float


class ItemsAnswer(BaseModel):
    """A page of items, in the order of their addition."""

    items: list[ItemAnswer]
    total: int


class ColumnAnswer(BaseModel):
    """A column of metadata."""

    type: Literal["number", "text"]
    values: list[Any] = Field(description="Smallest and largest number, or the commonest values.")


class InfoAnswer(BaseModel):
    """Description of the served index."""

    items: int
    modalities: dict[str, str] = Field(examples=[{"image": "image", "text": "text"}])
    counts: dict[str, int]
    columns: dict[str, ColumnAnswer]
    writable: bool
    model: str
    heads: list[str] = Field(description="Heads of the model, by name; `matching` reorders hits.")
    engine: str
    version: str


class NewItem(Asked):
    """An item to add: a text, or a picture or sound as a data URL."""

    id: Id | None = Field(default=None, description="Id of the item; an item with the same id is replaced.")
    modality: str | None = Field(default=None, description="By default, the model's first modality of that kind.")
    text: str | None = None
    data: str | None = None
    metadata: Metadata = Field(default_factory=dict)


class NewItems(Asked):
    """Items to add."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"items": [{"id": "a", "text": "two dogs", "metadata": {"year": 2024}}]}]},
    )
    items: Annotated[list[NewItem], Field(min_length=1, max_length=MOST_ITEMS)]


class Rejected(BaseModel):
    """An item that was set aside, with the reason."""

    source: str
    reason: str


class AddedAnswer(BaseModel):
    """Counts and ids of added items, which are on the disk, and rejected items."""

    added: int
    replaced: int = 0
    ids: list[str] = []
    rejected: list[Rejected]


class RemovedAnswer(BaseModel):
    """Number of removed items."""

    removed: int


class CaptionRequest(Asked):
    """An item to caption: the id of an item of the index, a data URL, or a text."""

    item: Id | None = None
    image: str | None = Field(default=None, examples=["data:image/png;base64,iVBORw0KGgo="])
    audio: str | None = None
    text: Text | None = None
    beams: int = Field(default=5, ge=1, le=20, description="Number of captions.")
    head: str | None = Field(default=None, description="By default `captioning`, or the model's only captioner.")


class WrittenCaption(BaseModel):
    """A caption with the score by which captions of an item are ordered."""

    text: str
    score: float


class CaptionAnswer(BaseModel):
    """The best caption of an item, and all of them, the best first."""

    caption: str
    captions: list[WrittenCaption]


class EmbeddingsRequest(BaseModel):
    """OpenAI's request for embeddings; further keys are accepted and ignored."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "lightcrl", "input": ["two dogs"]}]})
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_INPUTS)]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    modality: str | None = Field(default=None, description="By default, the first modality of each input's kind.")


class Embedding(BaseModel):
    """One embedding: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    """Embeddings in OpenAI's format."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: dict[str, int] = {"prompt_tokens": 0, "total_tokens": 0}


class MapAnswer(BaseModel):
    """Items projected to the plane of the first two principal axes."""

    points: list[list[float]]
    ids: list[str]
    modality: list[int] = Field(description="Positions in `modalities`.")
    modalities: list[str]
    columns: dict[str, list[Any]]


class DuplicatesAnswer(BaseModel):
    """Groups of near-identical items, each of one modality; and the first items of the first groups, by id."""

    duplicates: list[dict[str, Any]]
    items: dict[str, ItemAnswer]


class OutliersAnswer(BaseModel):
    """Items far from all others; and the first of these items, by id."""

    outliers: list[dict[str, Any]]
    items: dict[str, ItemAnswer]


class StatusAnswer(BaseModel):
    """Status of the server."""

    status: str


class ErrorContent(BaseModel):
    """Message and class of an error."""

    message: str
    type: str = Field(examples=["DataError"])


class ErrorAnswer(BaseModel):
    """Format of every error."""

    error: ErrorContent
