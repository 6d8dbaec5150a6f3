from flashmm.workflow.scenarios import write_scenarios


rule simulate:
    input:
        unpack(lambda wildcards: PLAN.scenario_inputs(wildcards.scenario)),
    output:
        counts="results/simulations/{scenario}-{replicate}.h5ad",
        truth="results/simulations/{scenario}-{replicate}.truth.tsv",
    log:
        "logs/simulate/{scenario}-{replicate}.log",
    wildcard_constraints:
        scenario=only(PLAN.simulated),
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


# Real donors in the place of a simulation: labels permuted, or counts thinned.
rule donor_counts:
    input:
        unpack(lambda wildcards: PLAN.scenario_inputs(wildcards.scenario)),
    output:
        counts="results/simulations/{scenario}-{replicate}.h5ad",
        truth="results/simulations/{scenario}-{replicate}.truth.tsv",
    log:
        "logs/donor_counts/{scenario}-{replicate}.log",
    wildcard_constraints:
        scenario=only(PLAN.of_donors),
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000, 10),
        runtime=minutes(30),
    params:
        donors=lambda wildcards: PLAN.donor_set(wildcards.scenario),
        seed=scenario_seed,
        version=code("donor_counts"),
    script:
        "../scripts/donor_counts.py"


# The scenarios as a sheet that one can read, and that `scenarios:` can name. A dry run writes none.
onstart:
    if PLAN.scenarios and not BUCKET:
        write_scenarios(PLAN.scenarios)
