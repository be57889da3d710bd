"""The shelf of tuning methods: what of a model is trained, and how. One file is one method.

An entry has

    class Config(core.config.Config)     its settings, beside `method` under `tuning:` in a recipe
    IS_ADAPTER: bool                     a checkpoint keeps only what was trained, beside the name of the base model;
                                         otherwise the whole model, which is a plain Decoder all along
    MERGES: bool                         `merge` exists
    apply(model, config) -> None         in place: afterwards the method's own parameters, and no others, require
                                         gradients, and the model computes what it did before. It works on a model
                                         without memory (device meta) too, so that a run can be planned
    merge(model) -> None                 in place: the plain Decoder again, the same function up to rounding
    peft_config(config, model) -> dict   adapter_config.json as PEFT has it; None where PEFT has no such method
    advice(config, rows) -> list[str]    optional: what to know before so many rows are trained on
    facts(config) -> dict[str, float]    optional: numbers for the report before training, such as alpha / r
    LEARNING_RATE: float                 optional: where `thinkling compare` begins, when the user names none
    STARTS_AS_BASE: bool                 optional: False where the model does not begin as the base; the docstring says
                                         as what
    for_inference(model, config)         optional: (settings, tensors) of the same function for the adapter file, where
        -> (Config, dict)                what is trained is more than what is needed afterwards

tests/laws/test_tuning.py holds every entry to this.
"""
