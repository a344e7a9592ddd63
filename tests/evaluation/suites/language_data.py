"""The data that the checks of instructions read through nltk, in small: parameters of the same form
as the published ones, which cannot be had without a network."""

from __future__ import annotations

from pathlib import Path

import nltk
from nltk.tag.perceptron import PerceptronTagger
from nltk.tokenize.punkt import PunktParameters, save_punkt_params

ABBREVIATIONS = {"mr", "mrs", "dr", "e.g", "i.e", "etc"}
STOP_WORDS = ("a", "an", "and", "in", "is", "it", "of", "on", "the", "to")
TAGGED = [
    [("Write", "VB"), ("the", "DT"), ("word", "NN")],
    [("Go", "VB"), ("to", "TO"), ("the", "DT"), ("house", "NN")],
    [("The", "DT"), ("house", "NN"), ("is", "VBZ"), ("old", "JJ")],
    [("Cats", "NNS"), ("sleep", "VBP"), ("in", "IN"), ("it", "PRP")],
] * 3


def make(folder: Path) -> None:
    """Fill the folder, which has to be one of `nltk.data.path`."""
    assert str(folder) in nltk.data.path
    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    save_punkt_params(parameters, dir=str(english))
    (folder / "tokenizers" / "punkt").mkdir()
    stop_words = folder / "corpora" / "stopwords"
    stop_words.mkdir(parents=True)
    (stop_words / "english").write_text("".join(f"{word}\n" for word in STOP_WORDS))
    tagger = PerceptronTagger(load=False)
    tagger.train(TAGGED)
    place = folder / "taggers" / "averaged_perceptron_tagger_eng"
    place.mkdir(parents=True)
    tagger.save_to_json(lang="eng", loc=str(place))
