"""Requests and answers of the server, as pydantic models with examples; their names are the contract."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_HITS = 1000
MOST_PARTS = 32
MOST_INPUTS = 256
MOST_ITEMS = 1000

Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False, description="Share of the query.")]
Text = Annotated[str, StringConstraints(min_length=1)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]
Where = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]
Cell: TypeAlias = str | int | float | bool | None
Metadata = Annotated[dict[Column, Cell], Field(max_length=64)]


class Asked(BaseModel):
    """What every request has in common: unknown keys are refused."""

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
    """An item of the index in a query."""

    id: Id
    weight: Weight = 1.0


Texts: TypeAlias = Annotated[list[TextPart | Text], Field(max_length=MOST_PARTS)] | TextPart | Text | None
Media: TypeAlias = Annotated[list[MediaPart | str], Field(max_length=MOST_PARTS)] | MediaPart | str | None
Likes: TypeAlias = Annotated[list[LikePart | Id], Field(max_length=MOST_PARTS)] | LikePart | Id | None


class Parts(Asked):
    """Parts of a query by kind; one stands for a list of one, a text or id for a part of weight 1."""

    text: Texts = None
    image: Media = None
    audio: Media = None
    like: Likes = None


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
    minus: Parts | None = Field(default=None, description="What to look away from.")
    filter: Where | None = Field(default=None, description="Condition on columns.", examples=["year > 2020"])
    modality: str | None = Field(default=None, description="Of the results.")
    k: int = Field(default=24, ge=1, le=MOST_HITS, description="How many results.")


class ItemAnswer(BaseModel):
    """An item of the index."""

    id: str
    modality: str
    kind: str
    path: str | None = Field(description="Name of its file, without its folder.")
    text: str | None
    metadata: dict[str, Any]
    content: str | None = Field(description="Where its picture, sound or text is.", examples=["/items/a.jpg/content"])


class HitAnswer(ItemAnswer):
    """A result of a search."""

    score: float = Field(description="Cosine similarity.")
    share: float | None = Field(description="Of random items that would score as high.")


class SearchAnswer(BaseModel):
    """Results, best first."""

    hits: list[HitAnswer]
    nothing: bool = Field(description="Whether nothing here matches, as far as can be told.")
    seconds: float


class ItemsAnswer(BaseModel):
    """Items in the order in which they came."""

    items: list[ItemAnswer]
    total: int


class ColumnAnswer(BaseModel):
    """A column of metadata."""

    type: Literal["number", "text"]
    values: list[Any] = Field(description="Least and greatest number, or the commonest values.")


class InfoAnswer(BaseModel):
    """What is served."""

    items: int
    modalities: dict[str, str] = Field(examples=[{"image": "image", "text": "text"}])
    counts: dict[str, int]
    columns: dict[str, ColumnAnswer]
    writable: bool
    model: str
    engine: str
    version: str


class NewItem(Asked):
    """An item to be added: a text, or a picture or sound as a data URL."""

    id: Id | None = Field(default=None, description="An item of the same id is replaced.")
    modality: str | None = Field(default=None, description="By default the model's first of that kind.")
    text: str | None = None
    data: str | None = None
    metadata: Metadata = Field(default_factory=dict)


class NewItems(Asked):
    """Items to be added."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"items": [{"id": "a", "text": "two dogs", "metadata": {"year": 2024}}]}]},
    )
    items: Annotated[list[NewItem], Field(min_length=1, max_length=MOST_ITEMS)]


class Rejected(BaseModel):
    """What was set aside."""

    source: str
    reason: str


class AddedAnswer(BaseModel):
    """What came of adding: it is on the disk."""

    added: int
    replaced: int = 0
    ids: list[str] = []
    rejected: list[Rejected]


class RemovedAnswer(BaseModel):
    """What came of removing."""

    removed: int


class EmbeddingsRequest(BaseModel):
    """OpenAI's request of embeddings; further keys of theirs are taken and mean nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "lightcrl", "input": ["two dogs"]}]})
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_INPUTS)]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    modality: str | None = Field(default=None, description="By default text, or what a data URL says.")


class Embedding(BaseModel):
    """One embedding: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    """OpenAI's answer."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: dict[str, int] = {"prompt_tokens": 0, "total_tokens": 0}


class MapAnswer(BaseModel):
    """Items on the plane of the first two principal axes."""

    points: list[list[float]]
    ids: list[str]
    modality: list[int] = Field(description="Numbers in `modalities`.")
    modalities: list[str]
    columns: dict[str, list[Any]]


class DuplicatesAnswer(BaseModel):
    """Groups of near-identical items, by modality."""

    duplicates: list[dict[str, Any]]


class OutliersAnswer(BaseModel):
    """Items far from everything."""

    outliers: list[dict[str, Any]]


class StatusAnswer(BaseModel):
    """How the server is."""

    status: str


class ErrorContent(BaseModel):
    """What is wrong, in words, and its class."""

    message: str
    type: str = Field(examples=["DataError"])


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: ErrorContent
