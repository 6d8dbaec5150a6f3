rule simulate:
    input:
        unpack(lambda wildcards: PLAN.scenario_inputs(wildcards.scenario)),
    output:
        counts="results/simulations/{scenario}-{replicate}.h5ad",
        truth="results/simulations/{scenario}-{replicate}.truth.tsv",
    log:
        "logs/simulate/{scenario}-{replicate}.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 2
    resources:
        mem_mb=memory(2000),
        runtime=minutes(60),
    params:
        spec=lookup(dpath="{scenario}", within=PLAN.scenarios),
        seed=scenario_seed,
        version=code("simulate"),
    script:
        "../scripts/simulate.py"
