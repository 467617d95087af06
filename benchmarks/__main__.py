"""Run the benchmarks on what the package brings along: `python -m benchmarks`."""

from benchmarks import bench_compare, bench_completeness, bench_masking, bench_stability, bench_text

bench_completeness.main(["--name", "completeness_bundled"])
bench_masking.main(["--name", "masking_bundled"])
bench_compare.main(["--name", "compare_bundled"])
bench_compare.main(["--name", "compare_bundled_channels", "--units", "output_channel"])
bench_stability.main(["--name", "stability_bundled"])
bench_text.main([])
