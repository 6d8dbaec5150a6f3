rule simulate:
    input:
        lambda wildcards: scenario_files(SCENARIOS[wildcards.scenario]),
    output:
        counts="results/simulations/{scenario}-{replicate}.h5ad",
        truth="results/simulations/{scenario}-{replicate}.truth.tsv",
    log:
        "logs/simulate/{scenario}-{replicate}.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        spec=lookup(dpath="{scenario}", within=SCENARIOS),
        seed=scenario_seed,
        version=VERSION,
    script:
        "../scripts/simulate.py"
