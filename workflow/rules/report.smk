rule report:
    input:
        runs=sorted({run[key] for run in REPORTED for key in FILES if run[key]}),
        tables=[f"results/evaluation/{table}.parquet" for table in tables()],
        simulations=[path for data in DATASETS.values() if data["truth"] for path in data["counts"]],
    output:
        provenance="results/provenance.json",
        html=report(
            "results/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"result": "the whole run on one page"},
        ),
        figures=report(
            directory("results/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        "logs/report.log",
    conda:
        "../envs/flashmm.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        runs=REPORTED,
        tables={table: f"results/evaluation/{table}.parquet" for table in tables()},
        scenarios=SCENARIOS,
        config=config,
        version=source_digest(presentation=True),
    script:
        "../scripts/report.py"
