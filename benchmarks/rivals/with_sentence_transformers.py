"""sentence-transformers: both towers frozen behind a Router, a Dense for each, its trainer and its loss.

python with_sentence_transformers.py MODELS EPOCHS, in a folder with train.csv and dev.csv
"""

import sys

import numpy as np
import pandas as pd
from datasets import Dataset, Image
from PIL import Image as Picture
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Router, Transformer

models, epochs = sys.argv[1], float(sys.argv[2])
vision, language = Transformer(f"{models}/vit-tiny-patch16-224"), Transformer(f"{models}/all-MiniLM-L6-v2")
vision.requires_grad_(False)
language.requires_grad_(False)
routes = {
    "image": [vision, Pooling(192, ("cls", "mean")), Dense(384, 256, activation_function=None)],
    "text": [language, Pooling(384, "mean"), Dense(384, 256, activation_function=None)],
}
model = SentenceTransformer(modules=[Router(routes), Normalize()])

train = Dataset.from_pandas(pd.read_csv("train.csv")).cast_column("image", Image())
loss = MultipleNegativesRankingLoss(model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction")
settings = SentenceTransformerTrainingArguments(
    "out",
    num_train_epochs=epochs,
    per_device_train_batch_size=64,
    learning_rate=5e-3,
    warmup_steps=0.1,
    bf16=True,
    use_cpu=True,
    router_mapping={"image": "image", "caption": "text"},
    report_to="none",
)
SentenceTransformerTrainer(model, settings, train_dataset=train, loss=loss).train()
model.save_pretrained("out/model")

dev = pd.read_csv("dev.csv")
np.save("image.npy", model.encode([Picture.open(path) for path in dev["image"].unique()]))
np.save("text.npy", model.encode(dev["caption"].tolist()))
