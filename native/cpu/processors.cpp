#include "cpu/processors.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace lf::cpu {
namespace {

#if defined(__linux__)
// The first line of a file; empty when there is none.
std::string line_of(const std::string& path) {
  std::string line;
  if (FILE* file = std::fopen(path.c_str(), "r")) {
    char text[512];
    if (std::fgets(text, sizeof text, file)) line = text;
    std::fclose(file);
  }
  return line;
}

// Processors of the affinity mask, those that share a core counted once.
int allowed_cores() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 0;
  std::set<int> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(static_cast<size_t>(cpu), &allowed)) continue;
    int first = cpu;  // of those that share the core: the list begins with it
    const std::string siblings = line_of("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::sscanf(siblings.c_str(), "%d", &first);
    cores.insert(first);
  }
  return static_cast<int>(cores.size());
}

// Where the control groups' files say what time this process has: `controller` "" for version 2, "cpu" for version 1.
std::string group_of(const std::string& controller) {
  FILE* file = std::fopen("/proc/self/cgroup", "r");
  if (!file) return "";
  std::string group;
  char text[4096];
  while (std::fgets(text, sizeof text, file)) {
    // number:controllers:/path
    const std::string line = text;
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    if (controllers == ",," ? controller.empty() : !controller.empty() && controllers.find("," + controller + ",") != std::string::npos) {
      group = line.substr(second + 1, line.find('\n') - second - 1);
    }
  }
  std::fclose(file);
  return group == "/" ? "" : group;
}

// Processors' worth of time; infinite without a limit. A group has at most what those above it have.
double allowed_time() {
  double least = INFINITY;
  const auto up = [](std::string& group) { group.resize(group.empty() ? 0 : group.rfind('/')); };
  for (std::string group = group_of("");; up(group)) {
    double quota, period;
    if (std::sscanf(line_of("/sys/fs/cgroup" + group + "/cpu.max").c_str(), "%lf %lf", &quota, &period) == 2 && period > 0) {
      least = std::min(least, quota / period);
    }
    if (group.empty()) break;
  }
  for (std::string group = group_of("cpu");; up(group)) {
    const std::string folder = "/sys/fs/cgroup/cpu" + group;
    double quota, period;
    if (std::sscanf(line_of(folder + "/cpu.cfs_quota_us").c_str(), "%lf", &quota) == 1 && quota > 0 &&
        std::sscanf(line_of(folder + "/cpu.cfs_period_us").c_str(), "%lf", &period) == 1 && period > 0) {
      least = std::min(least, quota / period);
    }
    if (group.empty()) break;
  }
  return least;
}
#endif

}  // namespace

int usable_cores() {
  int cores = 0;
#if defined(__linux__)
  cores = allowed_cores();
#endif
  if (cores < 1) cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cores = static_cast<int>(std::min(static_cast<double>(cores), std::ceil(allowed_time())));
#endif
  return std::max(cores, 1);
}

}  // namespace lf::cpu
